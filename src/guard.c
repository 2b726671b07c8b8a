/*-------------------------------------------------------------------------
 *
 * guard.c
 *	  What people may do to the tables of views
 *
 * A view's table belongs to its owner, but its rows and columns are kappa's:
 * a row changed by hand, a column retyped or a key dropped would make the
 * view differ from its query without anybody noticing.  Three guards:
 *
 * - a statement trigger refuses INSERT, UPDATE, DELETE and TRUNCATE;
 * - a utility hook refuses DDL that breaks the table's meaning, and asks
 *   kappa's processes to leave a database that is to be dropped, renamed or
 *   copied;
 * - an object access hook forgets views that are dropped, and stops views
 *   whose definition was dropped under them.
 *
 * Everything else is free: indexes, grants, renames, tablespaces, triggers.
 *
 * IDENTIFICATION
 *	  src/guard.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "commands/tablecmds.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "compat.h"
#include "definition.h"
#include "fault.h"
#include "guard.h"
#include "kappa.h"
#include "shmem.h"

PG_FUNCTION_INFO_V1(kappa_sql_guard);

static ProcessUtility_hook_type next_utility = NULL;
static object_access_hook_type next_object_access = NULL;

/* Both are valid until the end of the transaction that set them. */
static Oid permitted_relid = InvalidOid;
static int permitted_depth; /* of triggers, while that is set */
static bool ddl_permitted = false;

/* ---- permits ---- */

static int
get_trigger_depth(void)
{
	return DatumGetInt32(OidFunctionCall0(F_PG_TRIGGER_DEPTH));
}

void
kappa_guard_permit(Oid relid)
{
	permitted_relid = relid;
	if (OidIsValid(relid))
		permitted_depth = get_trigger_depth();
}

void
kappa_guard_permit_ddl(bool permit)
{
	ddl_permitted = permit;
}

static void
end_permits(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT ||
		event == XACT_EVENT_PREPARE)
	{
		permitted_relid = InvalidOid;
		ddl_permitted = false;
	}
}

/* ---- rows ---- */

/* What is permitted to kappa is not to the triggers that its statements fire. */
Datum
kappa_sql_guard(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("kappa.guard() was not called as a trigger")));
	if (RelationGetRelid(trigger->tg_relation) != permitted_relid ||
		get_trigger_depth() != permitted_depth + 1)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot change view \"%s\"",
						RelationGetRelationName(trigger->tg_relation)),
				 errdetail("Its rows are kept by kappa, and equal its query over the log.")));
	return PointerGetDatum(NULL);
}

/* ---- DDL on views ---- */

static bool
is_view(Oid relid)
{
	return OidIsValid(relid) &&
		   get_rel_relkind(relid) == RELKIND_RELATION &&
		   kappa_catalog_get_view(relid) != NULL;
}

static void
refuse_ddl(Oid relid, const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("cannot %s of view \"%s\"", what, get_rel_name(relid)),
			 errdetail("Columns, key and rows of a view follow from its query."),
			 errhint("To change the query, call kappa.alter_view().")));
}

/* The columns of a unique constraint that has no predicate, as a set. */
static Bitmapset *
constraint_columns(Oid constraint)
{
	HeapTuple tuple = SearchSysCache1(INDEXRELID,
									  ObjectIdGetDatum(get_constraint_index(constraint)));
	Bitmapset *result = NULL;

	if (!HeapTupleIsValid(tuple))
		return NULL;
	for (int i = 0; i < ((Form_pg_index) GETSTRUCT(tuple))->indnkeyatts; i++)
		result = bms_add_member(result,
								((Form_pg_index) GETSTRUCT(tuple))->indkey.values[i]);
	ReleaseSysCache(tuple);
	return result;
}

/* Is this the constraint that the merge relies on? */
static bool
is_key_constraint(Oid relid, const char *name)
{
	KappaView *view = kappa_catalog_get_view(relid);
	KappaVersion *version = kappa_catalog_get_version(relid, view->version);
	Oid constraint = get_relation_constraint_oid(relid, name, true);
	Bitmapset *key = NULL;
	ListCell *lc;

	if (!OidIsValid(constraint) || !OidIsValid(get_constraint_index(constraint)) ||
		!OidIsValid(version->definition))
		return false;
	foreach(lc, version->key)
		key = bms_add_member(key, get_attnum(relid, lfirst(lc)));
	return bms_equal(key, constraint_columns(constraint));
}

/* What an ALTER TABLE subcommand would break; NULL if nothing. */
static const char *
broken_by(Oid relid, const AlterTableCmd *cmd)
{
	switch (cmd->subtype)
	{
		case AT_AddColumn:
			return "add a column";
		case AT_DropColumn:
			return "drop a column";
		case AT_AlterColumnType:
			return "change the type of a column";
		case AT_ColumnDefault:
		case AT_AddIdentity:
		case AT_SetIdentity:
		case AT_DropExpression:
			return "set the default of a column";
		case AT_DropNotNull:
		case AT_SetNotNull:
			return "change NOT NULL of a column";
		case AT_AddInherit:
		case AT_DropInherit:
		case AT_AddOf:
		case AT_AttachPartition:
			return "change the inheritance";
		case AT_ForceRowSecurity:
			return "force row-level security";
		case AT_SetUnLogged:
			return "change the persistence";
		case AT_DropConstraint:
			return is_key_constraint(relid, cmd->name) ? "drop the key" : NULL;
		default:
			return NULL;
	}
}

/*
 * The view that a command names; InvalidOid if it names none.  Another table
 * is locked as the command is going to lock it: nobody may give its name to a
 * view between our look and the command's.
 */
static Oid
find_view(const RangeVar *name, LOCKMODE lockmode)
{
	Oid relid = RangeVarGetRelid(name, NoLock, true);

	if (is_view(relid))
		return relid;
	if (!OidIsValid(relid) || get_rel_relkind(relid) != RELKIND_RELATION ||
		RecoveryInProgress())
		return InvalidOid;
	relid = RangeVarGetRelidExtended(name, lockmode, RVR_MISSING_OK,
									 RangeVarCallbackOwnsRelation, NULL);
	return is_view(relid) ? relid : InvalidOid;
}

static void
check_alter_table(const AlterTableStmt *stmt)
{
	Oid relid;
	ListCell *lc;

	if (stmt->objtype != OBJECT_TABLE)
		return;
	relid = find_view(stmt->relation, AlterTableGetLockLevel(stmt->cmds));
	foreach(lc, stmt->cmds)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);
		Oid parent;

		/* A child's INHERIT names the parent. */
		if (cmd->subtype != AT_AddInherit)
			continue;
		parent = find_view((RangeVar *) cmd->def, ShareUpdateExclusiveLock);
		if (OidIsValid(parent))
			refuse_ddl(parent, "inherit from a table");
	}
	if (!OidIsValid(relid))
		return;
	foreach(lc, stmt->cmds)
	{
		const char *what = broken_by(relid, lfirst_node(AlterTableCmd, lc));

		if (what != NULL)
			refuse_ddl(relid, what);
	}
}

static void
check_create_table(const CreateStmt *stmt)
{
	ListCell *lc;

	foreach(lc, stmt->inhRelations)
	{
		Oid parent = find_view(lfirst_node(RangeVar, lc), ShareUpdateExclusiveLock);

		if (OidIsValid(parent))
			refuse_ddl(parent, "inherit from the table");
	}
}

static void
check_rename(const RenameStmt *stmt)
{
	Oid relid;

	if (stmt->renameType != OBJECT_COLUMN || stmt->relation == NULL)
		return;
	relid = find_view(stmt->relation, AccessExclusiveLock);
	if (OidIsValid(relid))
		refuse_ddl(relid, "rename a column");
}

static void
check_rule(const RuleStmt *stmt)
{
	Oid relid = find_view(stmt->relation, AccessExclusiveLock);

	if (OidIsValid(relid))
		refuse_ddl(relid, "create a rule on the table");
}

static void
check_ddl(Node *stmt)
{
	if (ddl_permitted || !kappa_catalog_installed())
		return;

	switch (nodeTag(stmt))
	{
		case T_AlterTableStmt:
			check_alter_table((AlterTableStmt *) stmt);
			break;
		case T_CreateStmt:
			check_create_table((CreateStmt *) stmt);
			break;
		case T_RenameStmt:
			check_rename((RenameStmt *) stmt);
			break;
		case T_RuleStmt:
			check_rule((RuleStmt *) stmt);
			break;
		default:
			break;
	}
}

/*
 * A view whose table an ALTER TABLE has given to another owner; InvalidOid if
 * the command was none such.
 */
static Oid
view_given_away(Node *stmt)
{
	AlterTableStmt *alter = (AlterTableStmt *) stmt;
	ListCell *lc;

	if (!IsA(stmt, AlterTableStmt) || alter->objtype != OBJECT_TABLE ||
		!kappa_catalog_installed())
		return InvalidOid;
	foreach(lc, alter->cmds)
		if (lfirst_node(AlterTableCmd, lc)->subtype == AT_ChangeOwner)
		{
			Oid relid = RangeVarGetRelid(alter->relation, NoLock, true);

			return is_view(relid) ? relid : InvalidOid;
		}
	return InvalidOid;
}

/* ---- databases ---- */

/* The value of an option of CREATE or ALTER DATABASE; NULL if it is not given. */
static const char *
get_option(List *options, const char *name)
{
	ListCell *lc;

	foreach(lc, options)
	{
		DefElem *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, name) == 0 && option->arg != NULL)
			return defGetString(option);
	}
	return NULL;
}

/* The database that a command wants for itself alone; NULL if none. */
static const char *
database_wanted_alone(Node *stmt)
{
	switch (nodeTag(stmt))
	{
		case T_DropdbStmt:
			return ((DropdbStmt *) stmt)->dbname;
		case T_CreatedbStmt:
			return get_option(((CreatedbStmt *) stmt)->options, "template");
		case T_RenameStmt:
			if (((RenameStmt *) stmt)->renameType == OBJECT_DATABASE)
				return ((RenameStmt *) stmt)->subname;
			return NULL;
		case T_AlterDatabaseStmt:
			if (get_option(((AlterDatabaseStmt *) stmt)->options, "tablespace") != NULL)
				return ((AlterDatabaseStmt *) stmt)->dbname;
			return NULL;
		default:
			return NULL;
	}
}

/*
 * Ask kappa's processes to leave, if the caller may do such things to the
 * database at all: others must not be able to interrupt its views.  Whatever
 * becomes of the command, they may come back after the transaction.
 */
static void
evict_if_owner(Node *stmt)
{
	const char *name = database_wanted_alone(stmt);
	Oid dbid;

	if (name == NULL || !kappa_shmem_available())
		return;
	dbid = get_database_oid(name, true);
	if (!OidIsValid(dbid) || dbid == MyDatabaseId ||
		!object_ownercheck(DatabaseRelationId, dbid, GetUserId()))
		return;
	kappa_shmem_readmit(dbid);
	kappa_shmem_evict(dbid);
}

/* ---- the hook ---- */

/*
 * What a foreign table means and how its server is reached is read by workers
 * that may have nothing else to do for a long time.  And nobody knows what a
 * transaction that was prepared has done to views.
 */
static bool
concerns_processes(Node *stmt)
{
	switch (nodeTag(stmt))
	{
		case T_AlterForeignServerStmt:
		case T_CreateUserMappingStmt:
		case T_AlterUserMappingStmt:
		case T_DropUserMappingStmt:
			return true;
		case T_AlterTableStmt:
			return ((AlterTableStmt *) stmt)->objtype == OBJECT_FOREIGN_TABLE;
		case T_RenameStmt:
			return ((RenameStmt *) stmt)->relationType == OBJECT_FOREIGN_TABLE;
		case T_TransactionStmt:
			return ((TransactionStmt *) stmt)->kind == TRANS_STMT_COMMIT_PREPARED;
		default:
			return false;
	}
}

static void
run_next_utility(PlannedStmt *pstmt, const char *query_string, bool read_only,
				 ProcessUtilityContext context, ParamListInfo params,
				 QueryEnvironment *environment, DestReceiver *dest,
				 QueryCompletion *completion)
{
	if (next_utility != NULL)
		next_utility(pstmt, query_string, read_only, context, params,
					 environment, dest, completion);
	else
		standard_ProcessUtility(pstmt, query_string, read_only, context, params,
								environment, dest, completion);
}

static void
guard_utility(PlannedStmt *pstmt, const char *query_string, bool read_only,
			  ProcessUtilityContext context, ParamListInfo params,
			  QueryEnvironment *environment, DestReceiver *dest,
			  QueryCompletion *completion)
{
	Oid given_away = InvalidOid;
	bool concerned = false;

	/* Outside a transaction there is nothing to look up (ROLLBACK, say). */
	if (IsTransactionState() && OidIsValid(MyDatabaseId))
	{
		check_ddl(pstmt->utilityStmt);
		given_away = view_given_away(pstmt->utilityStmt);
		evict_if_owner(pstmt->utilityStmt);
		concerned = concerns_processes(pstmt->utilityStmt);
	}
	run_next_utility(pstmt, query_string, read_only, context, params,
					 environment, dest, completion);
	if (OidIsValid(given_away))
		kappa_definition_follow_owner(given_away);
	if (OidIsValid(given_away) || (concerned && kappa_catalog_installed()))
		kappa_shmem_wake_at_commit();
}

/* ---- drops ---- */

/* Run one statement on kappa's tables with a relation as $1. */
static void
run_for_relation(const char *sql, Oid relid)
{
	Oid types[] = { OIDOID };
	Datum values[] = { ObjectIdGetDatum(relid) };

	if (SPI_execute_with_args(sql, 1, types, values, NULL, false, 0) < 0)
		elog(ERROR, "could not run: %s", sql);
}

/*
 * A view's table is dropped: forget all about it.  A definition is dropped
 * under a living view: the view cannot be kept any more, its rows stay.
 */
static void
forget_relation(Oid relid)
{
	KappaCatalogScope scope;

	kappa_catalog_enter(&scope);
	run_for_relation("UPDATE kappa.view v SET state = 'stopped', since = clock_timestamp(),"
					 " reason = 'the definition was dropped, with something that the query reads'"
					 " FROM kappa.view_version n WHERE n.definition = $1"
					 " AND n.view = v.view AND n.version = v.version",
					 relid);
	run_for_relation("UPDATE kappa.view_version SET definition = NULL WHERE definition = $1", relid);
	run_for_relation("WITH v AS (DELETE FROM kappa.view WHERE view = $1 RETURNING view),"
					 " n AS (DELETE FROM kappa.view_version WHERE view = $1),"
					 " p AS (DELETE FROM kappa.position WHERE view = $1),"
					 " m AS (DELETE FROM kappa.last_message WHERE view = $1),"
					 " g AS (DELETE FROM kappa.gap WHERE view = $1),"
					 " d AS (DELETE FROM kappa.dead_letter WHERE view = $1),"
					 " r AS (DELETE FROM kappa.rebuild_run WHERE view = $1),"
					 " f AS (DELETE FROM kappa.fill WHERE view = $1),"
					 " s AS (DELETE FROM kappa.fill_range WHERE view = $1),"
					 " h AS (DELETE FROM kappa.version_history WHERE view = $1)"
					 " INSERT INTO kappa.event (view, view_name, event)"
					 " SELECT view, view::text, 'dropped' FROM v",
					 relid);
	kappa_catalog_leave(&scope);
	KAPPA_FAULT(VIEW_DROPPED, relid);
	kappa_shmem_wake_at_commit();
}

/* True if all of kappa's tables are there: not while the extension is dropped. */
static bool
have_tables(void)
{
	static const char *const tables[] = {
		"view",
		"view_version",
		"position",
		"last_message",
		"gap",
		"dead_letter",
		"event",
		"rebuild_run",
		"fill",
		"fill_range",
		"version_history",
	};
	Oid schema = get_namespace_oid(KAPPA_SCHEMA, true);

	if (!OidIsValid(schema) || !kappa_catalog_installed())
		return false;
	for (int i = 0; i < lengthof(tables); i++)
		if (!OidIsValid(get_relname_relid(tables[i], schema)))
			return false;
	return true;
}

/* Could a relation that is dropped be a view's table or definition? */
static bool
may_matter(Oid relid)
{
	char relkind = get_rel_relkind(relid);

	return (relkind == RELKIND_RELATION || relkind == RELKIND_VIEW) &&
		   get_rel_persistence(relid) != RELPERSISTENCE_TEMP &&
		   have_tables() &&
		   get_rel_namespace(relid) != get_namespace_oid(KAPPA_SCHEMA, true);
}

static void
guard_object_access(ObjectAccessType access, Oid classid, Oid objectid,
					int subid, void *arg)
{
	if (next_object_access != NULL)
		next_object_access(access, classid, objectid, subid, arg);

	if (access == OAT_DROP && classid == RelationRelationId && subid == 0 &&
		may_matter(objectid))
		forget_relation(objectid);

	/* Processes come with the extension, and leave with it. */
	if (classid == ExtensionRelationId &&
		(access == OAT_DROP || access == OAT_POST_CREATE) &&
		kappa_shmem_available())
		kappa_shmem_wake_at_commit();
}

void
kappa_guard_init(void)
{
	/* An upgrade makes kappa's tables one by one, as it does with all others. */
	if (IsBinaryUpgrade)
		return;

	next_utility = ProcessUtility_hook;
	ProcessUtility_hook = guard_utility;
	next_object_access = object_access_hook;
	object_access_hook = guard_object_access;
	RegisterXactCallback(end_permits, NULL);
}
