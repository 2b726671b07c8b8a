/*-------------------------------------------------------------------------
 *
 * rebuild_previous.c
 *	  Keep the version before the last switch, and bring it back
 *
 * After a switch the old version goes on as it is: its rows are in a table of
 * kappa_state now, and messages are applied to it in the same transactions as
 * to the live one.  To bring it back is a rebuild that has nothing to replay:
 * it gets a row in kappa.rebuild_run, and the worker takes the steps that are
 * left (rebuild.c).  The version that was live becomes the previous one then.
 *
 * IDENTIFICATION
 *	  src/rebuild_previous.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "definition.h"
#include "fault.h"
#include "rebuild_columns.h"
#include "rebuild_commands.h"
#include "rebuild_previous.h"
#include "rebuild_run.h"
#include "rebuild_switch.h"
#include "shmem.h"
#include "view_commands.h"

PG_FUNCTION_INFO_V1(kappa_sql_rollback_view);
PG_FUNCTION_INFO_V1(kappa_sql_drop_previous);

KappaVersion *
kappa_previous_get(Oid view)
{
	ListCell *lc;

	foreach(lc, kappa_catalog_list_versions(view))
	{
		KappaVersion *version = lfirst(lc);

		if (!version->live && version->kept_until != 0)
			return version;
	}
	return NULL;
}

/* ---- keeping ---- */

/* A version that could not follow the log would not follow it later, either. */
static bool
stand_together(const KappaVersion *a, const KappaVersion *b)
{
	KappaPosition *first = kappa_catalog_get_position(a->view, a->version);
	KappaPosition *second = kappa_catalog_get_position(b->view, b->version);

	return first != NULL && second != NULL && strcmp(first->topic, second->topic) == 0 &&
		   first->npartitions == second->npartitions &&
		   memcmp(first->next_offset, second->next_offset,
				  first->npartitions * sizeof(int64)) == 0;
}

static bool
has_column(TupleDesc columns, Form_pg_attribute wanted)
{
	for (int i = 0; i < columns->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(columns, i);

		if (!column->attisdropped && column->atttypid == wanted->atttypid &&
			strcmp(NameStr(column->attname), NameStr(wanted->attname)) == 0)
			return true;
	}
	return false;
}

/*
 * Does a table have all the columns of a definition?  One that the new version
 * leaves out will be dropped, with what is in it.
 */
static bool
has_columns_of(Oid table, Oid definition)
{
	Relation table_rel = relation_open(table, AccessShareLock);
	Relation definition_rel = relation_open(definition, AccessShareLock);
	TupleDesc wanted = RelationGetDescr(definition_rel);
	bool all = true;

	for (int i = 0; i < wanted->natts; i++)
		all = all && has_column(RelationGetDescr(table_rel), TupleDescAttr(wanted, i));
	relation_close(definition_rel, AccessShareLock);
	relation_close(table_rel, AccessShareLock);
	return all;
}

/* Columns that the new version has added are none of the old one's: drop them from its table. */
static void
drop_other_columns(const KappaView *view, const KappaVersion *from, Oid table)
{
	KappaOwnerScope scope;

	kappa_definition_enter_owner(&scope, view->owner, from->settings);
	kappa_columns_follow(table, from->definition);
	kappa_definition_leave_owner(&scope);
}

/* The columns of a definition, as a list. */
static char *
list_columns(Oid definition)
{
	Relation rel = relation_open(definition, AccessShareLock);
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; i < RelationGetNumberOfAttributes(rel); i++)
	{
		Form_pg_attribute column = TupleDescAttr(RelationGetDescr(rel), i);

		appendStringInfo(&buf, "%s%s", i > 0 ? ", " : "",
						 quote_identifier(NameStr(column->attname)));
	}
	relation_close(rel, AccessShareLock);
	return buf.data;
}

/*
 * A copy of the view's rows, which those who watch the view are about to see
 * changing.  Made as the owner, who may have lost the right to make tables;
 * that is no reason to give up the switch.
 */
static Oid
copy_rows(const KappaView *view, const KappaVersion *from)
{
	Oid namespace = get_rel_namespace(view->view);
	KappaShape *shape;
	KappaOwnerScope scope;
	char *columns;
	char *sql;
	Oid copy;

	if (object_aclcheck(NamespaceRelationId, namespace, view->owner, ACL_CREATE) != ACLCHECK_OK)
		return InvalidOid;

	shape = kappa_analyze_query(kappa_definition_get_query(from->definition), NULL, false);
	columns = list_columns(from->definition);
	kappa_definition_enter_owner(&scope, view->owner, from->settings);
	kappa_definition_use_tablespace_of(view->view);
	PushActiveSnapshot(GetTransactionSnapshot());
	copy = kappa_columns_create_shadow(view, shape, psprintf("v%d_rows", from->version));
	kappa_definition_depend(copy, view->view);
	sql = psprintf("INSERT INTO %s (%s) SELECT %s FROM ONLY %s",
				   kappa_definition_relation_name(copy), columns, columns,
				   kappa_definition_relation_name(view->view));
	kappa_definition_run_ddl(list_make1(sql));
	PopActiveSnapshot();
	kappa_definition_leave_owner(&scope);
	return copy;
}

Oid
kappa_previous_prepare(const KappaView *view, const KappaVersion *from,
					   const KappaVersion *to, bool storage)
{
	KappaRebuildRun *run = kappa_rebuild_run_get(view->view);

	if (run == NULL || run->keep_previous == 0 || view->state != KAPPA_VIEW_RUNNING ||
		!OidIsValid(from->definition) || !stand_together(from, to) ||
		!has_columns_of(to->target, from->definition))
		return InvalidOid;
	return storage ? to->target : copy_rows(view, from);
}

/* Change a version's row; $1 and $2 are view and version, $3 a relation. */
static void
update_version(const char *sql, const KappaVersion *version, Oid relid)
{
	KappaCatalogScope scope;
	Oid types[] = { OIDOID, INT4OID, OIDOID };
	Datum values[3];

	values[0] = ObjectIdGetDatum(version->view);
	values[1] = Int32GetDatum(version->version);
	values[2] = ObjectIdGetDatum(relid);
	kappa_catalog_enter(&scope);
	if (SPI_execute_with_args(sql, 3, types, values, NULL, false, 0) != SPI_OK_UPDATE ||
		SPI_processed != 1)
		elog(ERROR, "could not run: %s", sql);
	kappa_catalog_leave(&scope);
}

void
kappa_previous_keep(const KappaView *view, const KappaVersion *from, Oid table)
{
	drop_other_columns(view, from, table);
	update_version("UPDATE kappa.view_version n SET target = $3, kept_until ="
				   " CASE WHEN keep_previous < 0 THEN 'infinity'"
				   " ELSE clock_timestamp() + make_interval(secs => keep_previous) END"
				   " FROM kappa.rebuild_run r WHERE n.view = $1 AND n.version = $2"
				   " AND r.view = n.view AND r.finished_at IS NULL",
				   from, table);
}

bool
kappa_previous_drop(Oid view, const char *why)
{
	KappaVersion *previous;

	/* Somebody may be bringing it back just now. */
	if (kappa_catalog_lock_view(view) == NULL)
		return false;
	previous = kappa_previous_get(view);
	if (previous == NULL || !kappa_rebuild_drop_version(previous))
		return false;
	kappa_catalog_add_event(view, "forgotten", previous->version, NULL, why);
	return true;
}

/* ---- commands ---- */

static void
report_no_previous(Oid view)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("view \"%s\" has no previous version", get_rel_name(view)),
			 errhint("After a switch the version before is kept for the time that kappa.keep_previous had when the rebuild began.")));
}

static KappaVersion *
require_previous(Oid view)
{
	KappaVersion *previous = kappa_previous_get(view);

	if (previous == NULL)
		report_no_previous(view);
	return previous;
}

static void
check_can_roll_back(const KappaView *view)
{
	KappaRebuildRun *run = kappa_rebuild_run_get(view->view);

	if (view->restored || view->state == KAPPA_VIEW_PAUSED)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("view \"%s\" is paused", get_rel_name(view->view)),
				 errhint("Call kappa.resume_view() first.")));
	if (run != NULL && !run->finished)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("view \"%s\" is being rebuilt", get_rel_name(view->view)),
				 errdetail("A rebuild drops the previous version when it begins."),
				 errhint("kappa.cancel_rebuild() gives it up.")));
}

/* Columns that the live version has added go: nothing may depend on them. */
static void
check_columns(const KappaView *view, const KappaVersion *previous)
{
	KappaVersion *live = kappa_catalog_get_version(view->view, view->version);

	kappa_columns_check(view, live,
						kappa_analyze_query(kappa_definition_get_query(previous->definition),
											NULL, false));
}

/*
 * kappa.rollback_view(view regclass) -> bigint.  Workers keep what they know of
 * a version until something about the view changes: tell them.
 */
Datum
kappa_sql_rollback_view(PG_FUNCTION_ARGS)
{
	KappaView *view = kappa_view_require_owned(PG_GETARG_OID(0), AccessShareLock);
	KappaVersion *previous;

	kappa_view_require_preload();
	view = kappa_catalog_lock_view(view->view);
	check_can_roll_back(view);
	previous = require_previous(view->view);
	LockRelationOid(previous->target, AccessShareLock);
	if (OidIsValid(previous->definition))
		check_columns(view, previous);
	update_version("UPDATE kappa.view_version SET target = $3, kept_until = NULL"
				   " WHERE view = $1 AND version = $2",
				   previous, previous->target);
	kappa_rebuild_run_insert(view->view, previous->version, KAPPA_SWITCH_AUTO,
							 kappa_rebuild_choose_switch(view, previous->target, KAPPA_SWITCH_AUTO),
							 0);
	kappa_rebuild_run_report(view->view, previous->version, KAPPA_PHASE_CATCHING_UP, 0, 0);
	KAPPA_FAULT(ROLLBACK_BEGUN, view->view);
	CacheInvalidateRelcacheByRelid(view->view);
	kappa_shmem_wake_at_commit();
	PG_RETURN_INT64(previous->version);
}

/* kappa.drop_previous(view regclass) -> void */
Datum
kappa_sql_drop_previous(PG_FUNCTION_ARGS)
{
	KappaView *view = kappa_view_require_owned(PG_GETARG_OID(0), AccessShareLock);

	if (!kappa_previous_drop(view->view, "by a user"))
		report_no_previous(view->view);
	PG_RETURN_VOID();
}
