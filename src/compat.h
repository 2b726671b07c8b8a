/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  Differences between major versions of PostgreSQL
 *
 * Macros carry the newer version's name where there is one.  No other file
 * looks at PG_VERSION_NUM.
 *
 * IDENTIFICATION
 *	  src/compat.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_COMPAT_H
#define KAPPA_COMPAT_H

#include "executor/executor.h"
#include "funcapi.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/wait_event.h"

/* 16 has one function for the owner of any object. */
#if PG_VERSION_NUM < 160000
#include "catalog/pg_class.h"

static inline bool
object_ownercheck(Oid classid, Oid objectid, Oid roleid)
{
	if (classid == RelationRelationId)
		return pg_class_ownercheck(objectid, roleid);
	return pg_database_ownercheck(objectid, roleid);
}

/* And one for the privileges on it; kappa asks for functions, schemas and servers. */
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"

static inline AclResult
object_aclcheck(Oid classid, Oid objectid, Oid roleid, AclMode mode)
{
	if (classid == NamespaceRelationId)
		return pg_namespace_aclcheck(objectid, roleid, mode);
	if (classid == ForeignServerRelationId)
		return pg_foreign_server_aclcheck(objectid, roleid, mode);
	Assert(classid == ProcedureRelationId);
	return pg_proc_aclcheck(objectid, roleid, mode);
}
#endif

/* 16 moved permissions out of range table entries. */
#if PG_VERSION_NUM < 160000
#define ExecCheckQueryPermissions(query) \
	ExecCheckRTPerms((query)->rtable, true)
#define kappa_may_run_query(query) \
	ExecCheckRTPerms((query)->rtable, false)
#else
#define ExecCheckQueryPermissions(query) \
	ExecCheckPermissions((query)->rtable, (query)->rteperminfos, true)
#define kappa_may_run_query(query) \
	ExecCheckPermissions((query)->rtable, (query)->rteperminfos, false)
#endif

/* 16 can report a bad name softly. */
#if PG_VERSION_NUM < 160000
#define kappa_qualified_name(string) stringToQualifiedNameList(string)
#else
#define kappa_qualified_name(string) stringToQualifiedNameList(string, NULL)
#endif

/*
 * 16 can combine lists of values, though not in the order of a log.  Such a
 * list grows without bounds, and that of array_agg() has its type by OID.
 */
#if PG_VERSION_NUM < 160000
#define kappa_keeps_values(serial_fn) false
#else
#include "utils/fmgroids.h"
#define kappa_keeps_values(serial_fn) \
	((serial_fn) == F_ARRAY_AGG_SERIALIZE || (serial_fn) == F_ARRAY_AGG_ARRAY_SERIALIZE || \
	 (serial_fn) == F_STRING_AGG_SERIALIZE)
#endif

/* 16 can update only the indexes that summarize. */
#if PG_VERSION_NUM < 160000
#define kappa_insert_index_tuples(result, slot, estate) \
	((void) ExecInsertIndexTuples(result, slot, estate, false, false, NULL, NIL))
#else
#define kappa_insert_index_tuples(result, slot, estate) \
	((void) ExecInsertIndexTuples(result, slot, estate, false, false, NULL, NIL, false))
#endif

/* True if the new version of a row has index entries of its own. */
#if PG_VERSION_NUM < 160000
typedef bool kappa_update_indexes;

static inline bool
kappa_update_index_tuples(ResultRelInfo *result, TupleTableSlot *slot, EState *estate,
						  kappa_update_indexes which)
{
	if (which)
		(void) ExecInsertIndexTuples(result, slot, estate, true, false, NULL, NIL);
	return which;
}
#else
#include "access/tableam.h"

typedef TU_UpdateIndexes kappa_update_indexes;

static inline bool
kappa_update_index_tuples(ResultRelInfo *result, TupleTableSlot *slot, EState *estate,
						  kappa_update_indexes which)
{
	if (which != TU_None)
		(void) ExecInsertIndexTuples(result, slot, estate, true, false, NULL, NIL,
									 which == TU_Summarizing);
	return which == TU_All;
}
#endif

/* 18 counts searches of an index. */
#if PG_VERSION_NUM < 180000
#define kappa_index_beginscan(rel, index, snapshot, nkeys) \
	index_beginscan(rel, index, snapshot, nkeys, 0)
#else
#define kappa_index_beginscan(rel, index, snapshot, nkeys) \
	index_beginscan(rel, index, snapshot, NULL, nkeys, 0)
#endif

/* 16 tells DefineIndex() how many partitions there are. */
#if PG_VERSION_NUM < 160000
#define kappa_define_index(relid, stmt, check_rights) \
	DefineIndex(relid, stmt, InvalidOid, InvalidOid, InvalidOid, \
				false, check_rights, true, false, true)
#else
#define kappa_define_index(relid, stmt, check_rights) \
	DefineIndex(relid, stmt, InvalidOid, InvalidOid, InvalidOid, -1, \
				false, check_rights, true, false, true)
#endif

/* 17 tells event triggers of a statement. */
#if PG_VERSION_NUM < 170000
#define kappa_reindex_relation(relid, flags, params) reindex_relation(relid, flags, params)
#else
#define kappa_reindex_relation(relid, flags, params) reindex_relation(NULL, relid, flags, params)
#endif

/* 16 says "locator" where 15 said "node". */
#if PG_VERSION_NUM < 160000
#define rd_firstRelfilelocatorSubid rd_firstRelfilenodeSubid
#endif

/* 17 keeps smgr handles until the end of the transaction, by file. */
#if PG_VERSION_NUM >= 170000
#define RelationCloseSmgrByOid(relid) ((void) (relid))
#endif

/* 17 has proc numbers for backend ids. */
#if PG_VERSION_NUM < 170000
#define ProcNumberGetProc(number) BackendIdGetProc(number)
#define procNumber backendId
#endif

/* 18 counts all-frozen pages in pg_class. */
#if PG_VERSION_NUM >= 180000
#define KAPPA_HAVE_RELALLFROZEN
#endif

/* 17 numbers processes in a variable, and lets extensions name wait events. */
#if PG_VERSION_NUM < 170000
#define MyProcNumber (MyProc->pgprocno)
#define WaitEventExtensionNew(name) PG_WAIT_EXTENSION
#endif

/* 17 binds wait event sets to a resource owner instead of a memory context. */
#if PG_VERSION_NUM < 170000
#define create_session_wait_event_set(n) CreateWaitEventSet(TopMemoryContext, n)
#else
#define create_session_wait_event_set(n) CreateWaitEventSet(NULL, n)
#endif

/* 16 took the macros for varlena out of postgres.h. */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* 17 and 18 add arguments, and 18 moved the functions that write EXPLAIN. */
#if PG_VERSION_NUM < 170000
#define kappa_create_foreignscan_path(root, rel, rows, startup, total) \
	create_foreignscan_path(root, rel, NULL, rows, startup, total, \
							NIL, rel->lateral_relids, NULL, NIL)
#elif PG_VERSION_NUM < 180000
#define kappa_create_foreignscan_path(root, rel, rows, startup, total) \
	create_foreignscan_path(root, rel, NULL, rows, startup, total, \
							NIL, rel->lateral_relids, NULL, NIL, NIL)
#else
#include "commands/explain_format.h"
#include "commands/explain_state.h"
#define kappa_create_foreignscan_path(root, rel, rows, startup, total) \
	create_foreignscan_path(root, rel, NULL, rows, 0, startup, total, \
							NIL, rel->lateral_relids, NULL, NIL, NIL)
#endif

/* 18 marks functions that do not return before their declaration. */
#if PG_VERSION_NUM < 180000
#define pg_noreturn pg_attribute_noreturn()
#endif

/* 18 looks at operators of all kinds of indexes. */
#if PG_VERSION_NUM < 180000
#define get_op_index_interpretation(opno) get_op_btree_interpretation(opno)
#endif

/* 16 passes the planner's state where there is one; 18 has group columns as a range table entry. */
#if PG_VERSION_NUM < 160000
#define kappa_resolve_aliases(query, node) flatten_join_alias_vars(query, node)
#elif PG_VERSION_NUM < 180000
#define kappa_resolve_aliases(query, node) flatten_join_alias_vars(NULL, query, node)
#else
#define kappa_resolve_aliases(query, node) \
	flatten_join_alias_vars(NULL, query, \
							(query)->hasGroupRTE ? flatten_group_exprs(NULL, query, node) : (node))
#endif

/* 17 has SQL/JSON query functions, which convert to any type. */
#if PG_VERSION_NUM < 170000
#define IsJsonValueExpr(node) false
#else
#define IsJsonValueExpr(node) IsA(node, JsonExpr)
#endif

/* 16 keeps permissions in a list of their own, and notes which joins make a variable NULL. */
#if PG_VERSION_NUM < 160000
#define kappa_combine_range_tables(query, other) \
	((query)->rtable = list_concat((query)->rtable, (other)->rtable))
#define kappa_forget_nulling_joins(var) ((void) (var))
#define kappa_forget_unused_entries(query) ((void) (query))
#else
#include "parser/parse_relation.h"
#include "rewrite/rewriteManip.h"

#define kappa_combine_range_tables(query, other) \
	CombineRangeTables(&(query)->rtable, &(query)->rteperminfos, \
					   (other)->rtable, (other)->rteperminfos)
#define kappa_forget_nulling_joins(var) ((var)->varnullingrels = NULL)

/* Keep the permissions, and the entry for group columns of 18, in step with the range table. */
static inline void
kappa_forget_unused_entries(Query *query)
{
	List *permissions = NIL;
	ListCell *lc;

	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		if (rte->perminfoindex == 0)
			continue;
		permissions = lappend(permissions, getRTEPermissionInfo(query->rteperminfos, rte));
		rte->perminfoindex = list_length(permissions);
	}
	query->rteperminfos = permissions;
#if PG_VERSION_NUM >= 180000
	query->hasGroupRTE = false;
#endif
}
#endif

/* 18 can expand OLD and NEW of RETURNING. */
#if PG_VERSION_NUM < 180000
#define kappa_expand_entry(rte, rti, with_dropped, names, vars) \
	expandRTE(rte, rti, 0, -1, with_dropped, names, vars)
#else
#define kappa_expand_entry(rte, rti, with_dropped, names, vars) \
	expandRTE(rte, rti, 0, VAR_RETURNING_DEFAULT, -1, with_dropped, names, vars)
#endif

#endif /* KAPPA_COMPAT_H */
