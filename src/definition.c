/*-------------------------------------------------------------------------
 *
 * definition.c
 *	  The SQL view behind a version, and the settings it was made under
 *
 * The query of a version is kept as an ordinary SQL view, and nowhere else:
 * PostgreSQL then follows renames, refuses drops, dumps and restores it.  All
 * objects are created as the owner of the view, in a schema where the owner
 * may create, and then moved into kappa_state.  Nothing of the user's query is
 * ever evaluated with more rights than the user's: even parsing can run user
 * code, through a domain's constraint inside a composite literal.
 *
 * IDENTIFICATION
 *	  src/definition.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "commands/tablecmds.h"
#include "commands/tablespace.h"
#include "commands/view.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "executor/tstoreReceiver.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/analyze.h"
#include "rewrite/rewriteHandler.h"
#include "storage/lmgr.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "definition.h"
#include "fdw_options.h"
#include "fill_run.h"
#include "guard.h"
#include "kappa.h"
#include "view_callees.h"
#include "view_flatten.h"

/* Parameters that a query's meaning depends on, besides its text. */
static const char *const pinned_settings[] = {
	"search_path",
	"TimeZone",
	"timezone_abbreviations",
	"DateStyle",
	"IntervalStyle",
	"extra_float_digits",
	"bytea_output",
	"default_text_search_config",
	"lc_monetary",
	"lc_numeric",
	"lc_time",
	"xmlbinary",
	"xmloption",
};

/* ---- settings ---- */

static void
set_local(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

Datum
kappa_definition_pin_settings(void)
{
	Datum elements[lengthof(pinned_settings)];

	for (int i = 0; i < lengthof(pinned_settings); i++)
	{
		const char *value = GetConfigOption(pinned_settings[i], false, false);

		elements[i] = CStringGetTextDatum(psprintf("%s=%s", pinned_settings[i], value));
	}
	return PointerGetDatum(construct_array(elements, lengthof(elements), TEXTOID,
										   -1, false, TYPALIGN_INT));
}

void
kappa_definition_enter_owner(KappaOwnerScope *scope, Oid owner, List *settings)
{
	ListCell *lc;

	GetUserIdAndSecContext(&scope->userid, &scope->sec_context);
	SetUserIdAndSecContext(owner, scope->sec_context | SECURITY_RESTRICTED_OPERATION);
	scope->guc_level = NewGUCNestLevel();
	foreach(lc, settings)
	{
		KappaSetting *setting = lfirst(lc);

		/* Setting costs ten times what comparing does, and it runs per batch. */
		if (strcmp(GetConfigOption(setting->name, false, false), setting->value) != 0)
			set_local(setting->name, setting->value);
	}
}

void
kappa_definition_leave_owner(KappaOwnerScope *scope)
{
	AtEOXact_GUC(false, scope->guc_level);
	SetUserIdAndSecContext(scope->userid, scope->sec_context);
}

void
kappa_definition_use_tablespace_of(Oid relid)
{
	Oid tablespace = get_rel_tablespace(relid);

	set_local("default_tablespace", OidIsValid(tablespace) ? get_tablespace_name(tablespace) : "");
}

uint64
kappa_definition_select_as_owner(Oid owner, List *settings, Query *definition,
								 const char *sql, ReturnSetInfo *rsinfo)
{
	SPIExecuteOptions options = { .read_only = true };
	KappaOwnerScope scope;
	int rc;

	if (rsinfo != NULL)
	{
		options.dest = CreateDestReceiver(DestTuplestore);
		tuplestore_clear(rsinfo->setResult);
		SetTuplestoreDestReceiverParams(options.dest, rsinfo->setResult,
										rsinfo->econtext->ecxt_per_query_memory,
										false, NULL, NULL);
	}
	kappa_callees_expect(sql, definition);
	kappa_definition_enter_owner(&scope, owner, settings);
	rc = SPI_execute_extended(sql, &options);
	kappa_definition_leave_owner(&scope);
	if (rc != SPI_OK_SELECT)
		elog(ERROR, "could not run \"%s\": %s", sql, SPI_result_code_string(rc));
	if (rsinfo != NULL)
		options.dest->rDestroy(options.dest);
	return SPI_processed;
}

/* As pg_dump does. */
int
kappa_definition_enter_deparse(const char *search_path)
{
	int level = NewGUCNestLevel();

	set_local("search_path", search_path);
	set_local("DateStyle", "ISO, YMD");
	set_local("IntervalStyle", "postgres");
	set_local("extra_float_digits", "3");
	set_local("bytea_output", "hex");
	set_local("quote_all_identifiers", "off");
	return level;
}

int
kappa_definition_enter_hash(void)
{
	int level = kappa_definition_enter_deparse("");

	set_local("TimeZone", "UTC");
	set_local("lc_monetary", "C");
	return level;
}

/* ---- reading definitions ---- */

/* Nobody may rely on a name that was there a moment ago: others drop tables. */
char *
kappa_definition_relation_name(Oid relid)
{
	char *name = get_rel_name(relid);
	char *namespace = get_namespace_name(get_rel_namespace(relid));

	if (name == NULL || namespace == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	return quote_qualified_identifier(namespace, name);
}

static Query *
get_rule_query(Oid definition)
{
	Relation rel = table_open(definition, AccessShareLock);
	Query *query = copyObject(get_view_query(rel));

	table_close(rel, AccessShareLock);
	return query;
}

Query *
kappa_definition_get_query(Oid definition)
{
	return kappa_flatten_query(get_rule_query(definition), NULL);
}

char *
kappa_definition_get_text(Oid definition, bool pretty)
{
	Query *query = get_rule_query(definition);
	int level = kappa_definition_enter_deparse("");
	char *text = pg_get_querydef(query, pretty);

	AtEOXact_GUC(true, level);
	kappa_callees_expect(text, query);
	return text;
}

/*
 * The text is parsed again under the version's own search_path, so names are
 * written for that: qualified where the path would find something else.
 */
static int
enter_deparse_for(const KappaVersion *version)
{
	const char *search_path = "";
	ListCell *lc;

	foreach(lc, version->settings)
	{
		KappaSetting *setting = lfirst(lc);

		if (strcmp(setting->name, "search_path") == 0)
			search_path = setting->value;
	}
	return kappa_definition_enter_deparse(search_path);
}

KappaStatements *
kappa_definition_get_statements(Query *definition, const KappaShape *shape,
								const KappaVersion *version, bool pretty)
{
	int level = enter_deparse_for(version);
	KappaStatements *statements = kappa_plan_statements(definition, shape, version->target,
														version->companion, pretty);

	AtEOXact_GUC(true, level);
	kappa_callees_expect(statements->delta, definition);
	kappa_callees_expect(statements->merge, definition);
	if (statements->place != NULL)
	{
		kappa_callees_expect(statements->find, definition);
		kappa_callees_expect(statements->place, definition);
	}
	return statements;
}

char *
kappa_definition_get_bounded_query(Query *definition, const KappaShape *shape,
								   const KappaVersion *version)
{
	int level = enter_deparse_for(version);
	char *text = kappa_plan_bounded_query(definition, shape);

	AtEOXact_GUC(true, level);
	return text;
}

char *
kappa_definition_deparse(Query *query, const KappaVersion *version)
{
	int level = enter_deparse_for(version);
	char *sql = pg_get_querydef(query, false);

	AtEOXact_GUC(true, level);
	return sql;
}

char *
kappa_definition_get_stretch(Query *definition, const KappaShape *shape,
							 const KappaVersion *version, bool in_memory)
{
	int level = enter_deparse_for(version);
	char *delta = kappa_plan_stretch(definition, shape, in_memory);

	AtEOXact_GUC(true, level);
	kappa_callees_expect(delta, definition);
	return delta;
}

KappaFillStatements *
kappa_definition_get_fill(Query *definition, const KappaShape *shape,
						  const KappaVersion *version, Oid staging)
{
	int level = enter_deparse_for(version);
	KappaFillStatements *statements = kappa_plan_fill(definition, shape, version->target,
													  version->companion, staging);

	AtEOXact_GUC(true, level);
	kappa_callees_expect(statements->merge, definition);
	return statements;
}

/* Runs at once, so its names are written for the search_path of now. */
char *
kappa_definition_get_birth(Query *definition, const KappaShape *shape,
						   const KappaVersion *version)
{
	int level = kappa_definition_enter_deparse(GetConfigOption("search_path", false, false));
	char *statement = kappa_plan_birth(definition, shape, version->target,
									   version->companion);

	AtEOXact_GUC(true, level);
	return statement;
}

/*
 * What a subquery hides from the query around it can clash there: two columns
 * that it gave different collations with COLLATE.
 */
void
kappa_definition_check_text(Oid definition)
{
	Query *query = kappa_definition_get_query(definition);
	int level = kappa_definition_enter_deparse("");

	(void) kappa_definition_parse(pg_get_querydef(query, false));
	AtEOXact_GUC(true, level);
}

/* ---- what SQL views mean ---- */

/* Only tables have them, and only a table's entry can show them. */
static bool
uses_system_column(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
		return ((Var *) node)->varattno < 0;
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, uses_system_column, context, 0);
	return expression_tree_walker(node, uses_system_column, context);
}

/* The columns of a relation, counted without those that were dropped. */
static List *
number_columns(Oid relid, int n)
{
	Relation rel = table_open(relid, AccessShareLock);
	List *names = NIL;
	int number = 0;

	for (int i = 0; i < n; i++)
	{
		bool dropped = TupleDescAttr(RelationGetDescr(rel), i)->attisdropped;

		names = lappend(names, makeString(dropped ? pstrdup("") : psprintf("%d", ++number)));
	}
	table_close(rel, AccessShareLock);
	return names;
}

/*
 * Let relations be deparsed in a way that renaming them, or a dump and restore,
 * does not change.  Deparsing asks the catalogs for the names of a table and its
 * columns, but believes what an entry says of a CTE.  A table that is looked up
 * keeps its name: another one in its place is what matters there.
 */
static bool
make_nameless(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, make_nameless, context,
								 QTW_EXAMINE_RTES_AFTER);
	if (IsA(node, RangeTblEntry))
	{
		RangeTblEntry *rte = (RangeTblEntry *) node;

		if (rte->rtekind != RTE_RELATION || !rte->inFromCl)
			return false;
		rte->rtekind = RTE_CTE;
		rte->ctename = kappa_options_is_topic(rte->relid)
						   ? pstrdup("topic")
						   : kappa_definition_relation_name(rte->relid);
		rte->alias = NULL;
		rte->eref = makeAlias("relation", number_columns(rte->relid, list_length(rte->eref->colnames)));
		return false;
	}
	return expression_tree_walker(node, make_nameless, context);
}

char *
kappa_definition_hash_sources(Oid definition, List **views)
{
	Query *query;
	uint64 hash;
	char *text;
	int level;

	*views = NIL;
	query = kappa_flatten_query(get_rule_query(definition), views);
	if (*views == NIL)
		return NULL;
	if (!uses_system_column((Node *) query, NULL))
		(void) make_nameless((Node *) query, NULL);
	level = kappa_definition_enter_hash();
	text = pg_get_querydef(query, false);
	AtEOXact_GUC(true, level);
	hash = DatumGetUInt64(hash_any_extended((unsigned char *) text, strlen(text), 0));
	return psprintf(PG_MAJORVERSION " %016llx", (unsigned long long) hash);
}

/* Major versions of PostgreSQL may deparse one query to different texts. */
bool
kappa_definition_same_sources(const char *before, const char *now)
{
	if (before == NULL || now == NULL)
		return before == now;
	return strcmp(before, now) == 0 || atoi(before) != atoi(now);
}

/* ---- making definitions ---- */

/* Errors in the text of a query point into it, not into the calling statement. */
static void
point_into_query(void *arg)
{
	int position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position);
		internalerrquery((const char *) arg);
	}
}

static RawStmt *
parse_one_select(const char *text)
{
	List *statements = pg_parse_query(text);
	RawStmt *statement;

	if (list_length(statements) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("the query of a view must be one SELECT statement"),
				 errdetail("The text holds %d statements.", list_length(statements))));
	statement = linitial_node(RawStmt, statements);
	if (!IsA(statement->stmt, SelectStmt) ||
		((SelectStmt *) statement->stmt)->intoClause != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("the query of a view must be a SELECT statement without INTO")));
	return statement;
}

Query *
kappa_definition_parse(const char *text)
{
	ErrorContextCallback callback;
	Query *query;

	callback.callback = point_into_query;
	callback.arg = unconstify(char *, text);
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	query = parse_analyze_fixedparams(parse_one_select(text), text, NULL, 0, NULL);
	error_context_stack = callback.previous;
	return query;
}

/*
 * Take away what default privileges have granted on a relation.  They are meant
 * for what people make to be read; a state or a version that is being built
 * has rows without the view's policies.
 */
static void
reset_privileges(Oid relid)
{
	Relation pg_class = table_open(RelationRelationId, RowExclusiveLock);
	HeapTuple tuple = SearchSysCacheCopy1(RELOID, ObjectIdGetDatum(relid));
	Datum values[Natts_pg_class] = { 0 };
	bool nulls[Natts_pg_class] = { 0 };
	bool replace[Natts_pg_class] = { 0 };
	bool isnull;
	Datum acl;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	acl = SysCacheGetAttr(RELOID, tuple, Anum_pg_class_relacl, &isnull);
	if (!isnull)
	{
		Oid *members;
		int n = aclmembers(DatumGetAclP(acl), &members);

		nulls[Anum_pg_class_relacl - 1] = true;
		replace[Anum_pg_class_relacl - 1] = true;
		updateAclDependencies(RelationRelationId, relid, 0,
							  ((Form_pg_class) GETSTRUCT(tuple))->relowner, n, members, 0, NULL);
		tuple = heap_modify_tuple(tuple, RelationGetDescr(pg_class), values, nulls, replace);
		CatalogTupleUpdate(pg_class, &tuple->t_self, tuple);
		CommandCounterIncrement();
	}
	table_close(pg_class, RowExclusiveLock);
}

/* Move a relation, with its type, indexes and constraints, into kappa_state. */
static void
move_to_state_schema(Oid relid)
{
	Relation rel = relation_open(relid, AccessExclusiveLock);
	ObjectAddresses *moved = new_object_addresses();

	AlterTableNamespaceInternal(rel, RelationGetNamespace(rel),
								get_namespace_oid(KAPPA_STATE_SCHEMA, false), moved);
	free_object_addresses(moved);
	relation_close(rel, NoLock);
	CommandCounterIncrement();
	reset_privileges(relid);
}

/*
 * Two views of one name, in one schema or in several, may be made at the same
 * time: whoever comes second waits until the first one's names can be seen.
 */
void
kappa_definition_lock_name(const char *base, const char *suffix)
{
	char *name = makeObjectName(base, NULL, suffix);
	uint32 hash = hash_bytes((unsigned char *) name, strlen(name));

	LockDatabaseObject(RelationRelationId, hash, 0, ShareUpdateExclusiveLock);
}

/* A relation name that is free in kappa_state and in the schema nearby. */
static char *
choose_name(const char *base, const char *suffix, Oid near)
{
	Oid state = get_namespace_oid(KAPPA_STATE_SCHEMA, false);
	char *label = pstrdup(suffix);
	int attempt = 0;

	kappa_definition_lock_name(base, suffix);
	for (;;)
	{
		char *name = makeObjectName(base, NULL, label);

		if (!OidIsValid(get_relname_relid(name, state)) &&
			!OidIsValid(get_relname_relid(name, near)) &&
			!OidIsValid(GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid,
										CStringGetDatum(name), ObjectIdGetDatum(state))))
			return name;
		label = psprintf("%s_%d", suffix, ++attempt);
	}
}

Oid
kappa_definition_create(const char *text, Oid near, const char *base, int32 version)
{
	ViewStmt *stmt = makeNode(ViewStmt);
	RawStmt *raw = parse_one_select(text);
	ObjectAddress address;

	stmt->view = makeRangeVar(get_namespace_name(near),
							  choose_name(base, psprintf("v%d", version), near), -1);
	stmt->query = raw->stmt;
	stmt->withCheckOption = NO_CHECK_OPTION;
	address = DefineView(stmt, text, raw->stmt_location, raw->stmt_len);
	CommandCounterIncrement();
	move_to_state_schema(address.objectId);
	return address.objectId;
}

void
kappa_definition_run_ddl(List *statements)
{
	ListCell *lc;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	foreach(lc, statements)
	{
		int rc = SPI_execute(lfirst(lc), false, 0);

		if (rc < 0)
			elog(ERROR, "could not run \"%s\": %s", (char *) lfirst(lc),
				 SPI_result_code_string(rc));
	}
	SPI_finish();
}

Oid
kappa_definition_create_state_table(List *(*ddl)(const KappaShape *, const char *),
									const KappaShape *shape,
									Oid near, const char *base, const char *suffix)
{
	char *name = choose_name(base, suffix, near);
	Oid relid;

	kappa_definition_run_ddl(ddl(shape,
								 quote_qualified_identifier(get_namespace_name(near), name)));
	relid = get_relname_relid(name, near);
	move_to_state_schema(relid);
	return relid;
}

void
kappa_definition_depend(Oid dependent, Oid view)
{
	ObjectAddress from;
	ObjectAddress to;

	ObjectAddressSet(from, RelationRelationId, dependent);
	ObjectAddressSet(to, RelationRelationId, view);
	(void) deleteDependencyRecordsForSpecific(RelationRelationId, dependent, DEPENDENCY_AUTO,
											  RelationRelationId, view);
	recordDependencyOn(&from, &to, DEPENDENCY_AUTO);
}

static void
run_on_table(const char *command, Oid relid)
{
	KappaCatalogScope scope;
	char *sql = psprintf("%s %s", command, kappa_definition_relation_name(relid));

	kappa_catalog_enter(&scope);
	if (SPI_execute(sql, false, 0) < 0)
		elog(ERROR, "could not run: %s", sql);
	kappa_catalog_leave(&scope);
}

void
kappa_definition_analyze_table(Oid relid)
{
	run_on_table("ANALYZE", relid);
}

void
kappa_definition_truncate(Oid relid)
{
	kappa_guard_permit(relid);
	run_on_table("TRUNCATE", relid);
	kappa_guard_permit(InvalidOid);
}

void
kappa_definition_drop_relation(Oid relid, DropBehavior behavior)
{
	ObjectAddress object;

	if (!OidIsValid(relid) || get_rel_name(relid) == NULL)
		return;
	ObjectAddressSet(object, RelationRelationId, relid);

	/* For what the catalogs have in their TOAST tables; workers may have none. */
	PushActiveSnapshot(GetTransactionSnapshot());
	performDeletion(&object, behavior, PERFORM_DELETION_INTERNAL);
	PopActiveSnapshot();
}

void
kappa_definition_follow_owner(Oid view)
{
	Oid owner = kappa_catalog_get_view(view)->owner;
	ListCell *lc;

	foreach(lc, kappa_catalog_list_versions(view))
	{
		KappaVersion *version = lfirst(lc);
		KappaFill *fill = kappa_fill_get(view, version->version);
		Oid relations[] = { version->definition, version->companion, version->target,
							fill == NULL ? InvalidOid : fill->staging };

		/* As for a table's indexes: the right to change the table is enough. */
		for (int i = 0; i < lengthof(relations); i++)
			if (OidIsValid(relations[i]) && relations[i] != view)
				ATExecChangeOwner(relations[i], owner, true, AccessExclusiveLock);
	}
}
