/*-------------------------------------------------------------------------
 *
 * view_commands.c
 *	  SQL functions that make, change and drop views
 *
 * A view is made in the caller's transaction: table, companion, definition,
 * rows in kappa's tables.  The processes that fill it learn of it when the
 * transaction commits.
 *
 * IDENTIFICATION
 *	  src/view_commands.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "apply.h"
#include "catalog.h"
#include "compat.h"
#include "definition.h"
#include "definition_functions.h"
#include "fill_run.h"
#include "guard.h"
#include "kafka_admin.h"
#include "kappa.h"
#include "restore.h"
#include "shmem.h"
#include "version_history.h"
#include "view_commands.h"
#include "view_flatten.h"
#include "view_start.h"
#include "view_text.h"

PG_FUNCTION_INFO_V1(kappa_sql_create_view);
PG_FUNCTION_INFO_V1(kappa_sql_drop_view);
PG_FUNCTION_INFO_V1(kappa_sql_pause_view);
PG_FUNCTION_INFO_V1(kappa_sql_limit_view);
PG_FUNCTION_INFO_V1(kappa_sql_resume_view);
PG_FUNCTION_INFO_V1(kappa_sql_seek_view);

/* ---- checks ---- */

void
kappa_view_require_preload(void)
{
	if (!kappa_shmem_available())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("kappa is not loaded by the server"),
				 errhint("Add this line to postgresql.conf and restart the server: shared_preload_libraries = 'kappa'")));
}

/* Better said now than by a worker. */
static void
require_utf8(void)
{
	if (GetDatabaseEncoding() != PG_UTF8)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("views cannot be made in a database with encoding \"%s\"",
						GetDatabaseEncodingName()),
				 errhint("Create a database with ENCODING 'UTF8' TEMPLATE template0.")));
}

static void
check_owner(Oid relid, const char *name)
{
	if (!object_ownercheck(RelationRelationId, relid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, name);
}

KappaView *
kappa_view_require_owned(Oid relid, LOCKMODE lockmode)
{
	char *name = get_rel_name(relid);
	KappaView *view;

	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));

	/* Who may do nothing to a table shall not queue for it, either. */
	check_owner(relid, name);
	LockRelationOid(relid, lockmode);
	if (get_rel_name(relid) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"%s\" does not exist", name),
				 errdetail("It was dropped by another transaction.")));
	check_owner(relid, name);
	view = kappa_catalog_get_view(relid);
	if (view == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a view of kappa", get_rel_name(relid)),
				 errhint("Views of kappa are made with kappa.create_view() and listed in kappa.views.")));
	return view;
}

void
kappa_view_require_readable(const KappaView *view)
{
	Oid userid = GetUserId();

	if (!object_ownercheck(RelationRelationId, view->view, userid) &&
		pg_class_aclcheck(view->view, userid, ACL_SELECT) != ACLCHECK_OK &&
		pg_attribute_aclcheck_all(view->view, userid, ACL_SELECT, ACLMASK_ANY) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, get_rel_name(view->view));
}

bool
kappa_view_shows_messages(Oid owner)
{
	return has_privs_of_role(GetUserId(), owner) ||
		   has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS);
}

/*
 * A rebuild that switches replaces the live version, and locks its definition
 * for that: once we have the lock it stays what it is.
 */
KappaVersion *
kappa_view_lock_live_version(Oid relid)
{
	for (;;)
	{
		KappaView *view = kappa_catalog_get_view(relid);
		KappaVersion *version = kappa_catalog_get_version(relid, view->version);

		if (version == NULL)
			elog(ERROR, "view \"%s\" has no version %d", get_rel_name(relid), view->version);
		if (OidIsValid(version->definition))
			LockRelationOid(version->definition, AccessShareLock);
		if (OidIsValid(version->source))
			LockRelationOid(version->source, AccessShareLock);
		if (kappa_catalog_get_latest_number(relid) == version->version)
			return version;
		if (IsolationUsesXactSnapshot())
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("view \"%s\" was rebuilt after this transaction began",
							get_rel_name(relid))));
	}
}

void
kappa_view_require_definition(const KappaVersion *version)
{
	if (!OidIsValid(version->definition) || !OidIsValid(version->source))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("definition of view \"%s\" was dropped", get_rel_name(version->view)),
				 errdetail("Its table keeps its rows as plain data.")));
}

/* ---- making versions ---- */

static Datum
make_offsets(const int64 *offsets, int n)
{
	Datum *elements = palloc(Max(n, 1) * sizeof(Datum));

	for (int i = 0; i < n; i++)
		elements[i] = Int64GetDatum(offsets[i]);
	return PointerGetDatum(construct_array(elements, n, INT8OID, sizeof(int64),
										   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

void
kappa_view_insert_version(const KappaVersion *version, Datum settings,
						  const char *topic, const int64 *start, int npartitions)
{
	KappaCatalogScope scope;
	Oid types[] = { OIDOID, INT4OID, OIDOID, OIDOID, OIDOID, OIDOID, TEXTOID,
					TEXTARRAYOID, TEXTOID, INT8ARRAYOID, TEXTOID, TEXTARRAYOID, TEXTARRAYOID };
	Datum values[13] = { 0 };
	char nulls[lengthof(values)];

	memset(nulls, ' ', sizeof(nulls));
	if (!OidIsValid(version->companion))
		nulls[5] = 'n';
	values[0] = ObjectIdGetDatum(version->view);
	values[1] = Int32GetDatum(version->version);
	values[2] = ObjectIdGetDatum(version->definition);
	values[3] = ObjectIdGetDatum(version->source);
	values[4] = ObjectIdGetDatum(version->target);
	values[5] = ObjectIdGetDatum(version->companion);
	values[6] = CStringGetTextDatum(version->fingerprint);
	values[7] = settings;
	values[8] = CStringGetTextDatum(topic);
	values[9] = make_offsets(start, npartitions);
	if (version->source_views == NULL)
		nulls[10] = 'n';
	else
		values[10] = CStringGetTextDatum(version->source_views);
	values[11] = kappa_catalog_make_names(version->key);
	values[12] = kappa_catalog_make_names(version->functions);
	kappa_catalog_enter(&scope);
	if (SPI_execute_with_args("WITH v AS (INSERT INTO kappa.view_version"
							  " (view, version, definition, source, target, companion, fingerprint, settings, source_views, key_columns, functions)"
							  " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $11, $12, $13))"
							  " INSERT INTO kappa.position VALUES ($1, $2, $9, $10, $10)",
							  13, types, values, nulls, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not insert a version");
	kappa_catalog_leave(&scope);
}

static void
insert_view(Oid view, const KappaShape *shape)
{
	KappaCatalogScope scope;
	Oid types[] = { OIDOID, TEXTOID, TEXTOID, INT8OID, OIDOID };
	Datum values[5];
	char nulls[] = { ' ', ' ', shape->inexact == NULL ? 'n' : ' ', ' ', ' ' };

	values[0] = ObjectIdGetDatum(view);
	values[1] = CStringGetTextDatum(shape->kind);
	values[2] = shape->inexact == NULL ? (Datum) 0 : CStringGetTextDatum(shape->inexact);
	values[3] = Int64GetDatum((int64) GetSystemIdentifier());
	values[4] = ObjectIdGetDatum(MyDatabaseId);
	kappa_catalog_enter(&scope);
	if (SPI_execute_with_args("INSERT INTO kappa.view"
							  " (view, kind, version, state, inexact, system_identifier, database)"
							  " VALUES ($1, $2, 1, 'running', $3, $4, $5)",
							  5, types, values, nulls, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not insert a view");
	kappa_catalog_leave(&scope);
}

/* Create the table of a view, with its guard, as the current user. */
static Oid
create_table(const KappaShape *shape, RangeVar *name)
{
	Oid namespace = RangeVarGetCreationNamespace(name);
	char *qualified = quote_qualified_identifier(get_namespace_name(namespace), name->relname);

	if (isTempNamespace(namespace))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a view of kappa cannot be temporary")));
	kappa_definition_lock_name(name->relname, NULL);
	kappa_definition_run_ddl(kappa_plan_table_ddl(shape, qualified));
	kappa_definition_run_ddl(list_make1(psprintf("CREATE TRIGGER " KAPPA_GUARD_TRIGGER " BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION kappa.guard()",
												 qualified)));
	return get_relname_relid(name->relname, namespace);
}

/*
 * The rows that are there before any message.  The definition is analysed
 * anew: a rule's tree numbers its relations otherwise than the query that it
 * was made from.
 */
static void
insert_birth_rows(const KappaVersion *version)
{
	Query *query = kappa_definition_get_query(version->definition);
	char *birth = kappa_definition_get_birth(query, kappa_analyze_query(query, NULL, false),
											 version);

	if (birth == NULL)
		return;
	kappa_guard_permit(version->target);
	kappa_definition_run_ddl(list_make1(birth));
	kappa_guard_permit(InvalidOid);
}

KappaVersion *
kappa_view_create_version(const char *query_text, const KappaShape *shape,
						  Oid view, Oid target, int32 number)
{
	KappaVersion *version = palloc0(sizeof(KappaVersion));
	Oid namespace = get_rel_namespace(view);
	char *name = get_rel_name(view);
	List *views;
	ListCell *lc;

	version->view = view;
	version->version = number;
	version->source = shape->scan->source;
	version->target = target;
	foreach(lc, shape->key)
		version->key = lappend(version->key, kappa_text_key_output(shape, lc)->name);
	version->definition = kappa_definition_create(query_text, namespace, name, number);
	kappa_definition_depend(version->definition, view);
	kappa_definition_check_text(version->definition);
	if (shape->needs_companion)
	{
		version->companion =
			kappa_definition_create_state_table(kappa_plan_companion_ddl, shape, namespace,
												name, psprintf("v%d_state", number));
		kappa_definition_depend(version->companion, view);
	}
	version->fingerprint =
		kappa_options_fingerprint(kappa_options_get_table(version->source),
								  shape->scan->columns);
	version->source_views = kappa_definition_hash_sources(version->definition, &views);
	version->functions =
		kappa_definition_hash_callees(kappa_definition_list_callees(version->definition, NULL));
	insert_birth_rows(version);
	return version;
}

/* No broker has to answer for the beginning of a log. */
static int64 *
resolve_start(const KappaStart *start, const KappaTable *table, int *npartitions)
{
	KafkaClient *client;
	int64 *offsets;

	*npartitions = 0;
	if (start->kind == KAPPA_START_EARLIEST)
		return NULL;
	kappa_options_check_server(table);
	client = kappa_kafka_open(kappa_options_get_connection(table->serverid, GetUserId()), false);
	offsets = kappa_start_resolve(start, kappa_kafka_topic(client, table->topic), npartitions);
	kappa_kafka_close(client);
	return offsets;
}

Datum
kappa_sql_create_view(PG_FUNCTION_ARGS)
{
	char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char *query_text = text_to_cstring(PG_GETARG_TEXT_PP(1));
	KappaStart *start = kappa_start_parse(text_to_cstring(PG_GETARG_TEXT_PP(2)));
	Datum settings = kappa_definition_pin_settings();
	RangeVar *range_var;
	Query *query;
	Query *flat;
	KappaShape *shape;
	KappaTable *table;
	KappaVersion *version;
	int64 *offsets;
	int npartitions;
	Oid view;

	kappa_view_require_preload();
	require_utf8();
	range_var = makeRangeVarFromNameList(kappa_qualified_name(name));
	query = kappa_definition_parse(query_text);
	flat = kappa_flatten_query(query, NULL);
	shape = kappa_analyze_query(flat, query_text, true);
	ExecCheckQueryPermissions(query);
	ExecCheckQueryPermissions(flat);
	table = kappa_options_get_table(shape->scan->source);
	offsets = resolve_start(start, table, &npartitions);

	view = create_table(shape, range_var);
	insert_view(view, shape);
	version = kappa_view_create_version(query_text, shape, view, view, 1);
	kappa_view_insert_version(version, settings, table->topic, offsets, npartitions);
	kappa_history_begin(view, 1, NULL, start);
	kappa_catalog_add_event(view, "created", 1, NULL, NULL);
	kappa_shmem_wake_at_commit();
	PG_RETURN_OID(view);
}

/* ---- dropping, pausing, resuming ---- */

Datum
kappa_sql_drop_view(PG_FUNCTION_ARGS)
{
	Oid relid = PG_GETARG_OID(0);
	char *schema;
	char *name;

	(void) kappa_view_require_owned(relid, AccessExclusiveLock);
	schema = get_namespace_name(get_rel_namespace(relid));
	name = quote_qualified_identifier(schema, get_rel_name(relid));
	kappa_definition_run_ddl(list_make1(psprintf("DROP TABLE %s", name)));
	PG_RETURN_VOID();
}

Datum
kappa_sql_pause_view(PG_FUNCTION_ARGS)
{
	KappaView *view = kappa_view_require_owned(PG_GETARG_OID(0), AccessShareLock);

	view = kappa_catalog_lock_view(view->view);
	if (view->state == KAPPA_VIEW_STOPPED)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("view \"%s\" is stopped", get_rel_name(view->view)),
				 errdetail("%s", view->reason == NULL ? "" : view->reason)));
	kappa_catalog_set_state(view->view, KAPPA_VIEW_PAUSED, "paused by a user", "paused");
	kappa_shmem_wake_at_commit();
	PG_RETURN_VOID();
}

/*
 * Check all that a worker would stumble over: the definition, the foreign
 * table's meaning, the table and its companion, and the log.
 */
static void
check_resumable(const KappaView *view)
{
	KappaVersion *version = kappa_catalog_get_version(view->view, view->version);
	KappaApplier *applier;
	KafkaClient *client;
	KafkaTopic *topic;
	int64 *begin;
	int64 *end;
	int n;

	if (version == NULL)
		elog(ERROR, "view \"%s\" has no version %d", get_rel_name(view->view), view->version);
	if (version->companion != InvalidOid && get_rel_name(version->companion) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("state of view \"%s\" is missing", get_rel_name(view->view)),
				 errhint("Rebuild the view with kappa.rebuild().")));
	applier = kappa_apply_open(view->view, view->version);
	client = kappa_kafka_open(kappa_options_get_connection(applier->serverid, applier->owner),
							  false);
	topic = kappa_kafka_topic(client, applier->topic);
	n = kappa_kafka_partition_count(topic, NULL);
	begin = palloc(Max(n, 1) * sizeof(int64));
	end = palloc(Max(n, 1) * sizeof(int64));
	kappa_kafka_watermarks(topic, n, begin, end);
	kappa_apply_set_log(applier, n, begin, end);
	kappa_kafka_close(client);
	kappa_apply_close(applier);
}

Datum
kappa_sql_resume_view(PG_FUNCTION_ARGS)
{
	KappaView *view = kappa_view_require_owned(PG_GETARG_OID(0), AccessShareLock);

	kappa_view_require_preload();
	view = kappa_catalog_lock_view(view->view);
	if (view->state == KAPPA_VIEW_RUNNING && !view->restored)
		PG_RETURN_VOID();

	check_resumable(view);
	if (view->restored)
		kappa_restore_adopt(view);
	kappa_catalog_set_state(view->view, KAPPA_VIEW_RUNNING, NULL, "resumed");
	kappa_shmem_wake_at_commit();
	PG_RETURN_VOID();
}

/* ---- limits ---- */

/* A limit that was given; false if it is null. */
static bool
get_limit(FunctionCallInfo fcinfo, int argument, const char *name, int32 min, int32 max,
		  int32 *limit)
{
	if (PG_ARGISNULL(argument))
		return false;
	*limit = PG_GETARG_INT32(argument);
	if (*limit < min || *limit > max)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%d is outside the valid range for \"%s\" (%d to %d)",
						*limit, name, min, max)));
	return true;
}

/* Workers open the view anew, and read its messages at another rate. */
Datum
kappa_sql_limit_view(PG_FUNCTION_ARGS)
{
	KappaLimits limits = { 0 };
	KappaView *view;

	if (PG_ARGISNULL(0))
		PG_RETURN_VOID();
	limits.has_dead_letter_limit = get_limit(fcinfo, 1, "dead_letter_limit", -1, PG_INT32_MAX,
											 &limits.dead_letter_limit);
	limits.has_dead_letter_percent = get_limit(fcinfo, 2, "dead_letter_percent", 0, 100,
											   &limits.dead_letter_percent);
	(void) get_limit(fcinfo, 3, "message_rate", 1, PG_INT32_MAX, &limits.message_rate);
	view = kappa_view_require_owned(PG_GETARG_OID(0), AccessShareLock);
	kappa_catalog_set_limits(view->view, &limits);
	CacheInvalidateRelcacheByRelid(view->view);
	kappa_shmem_wake_at_commit();
	PG_RETURN_VOID();
}

/* ---- seeking ---- */

/*
 * The number of partitions of a view that has not read any yet: as many as its
 * topic has, and not just the one that is sought, or the others would look as
 * if they had been added since.
 */
static int
count_partitions(const KappaView *view, const KappaPosition *position)
{
	KappaVersion *version;
	KappaTable *table;
	KafkaClient *client;
	int n;

	if (position->npartitions > 0)
		return position->npartitions;
	version = kappa_catalog_get_version(view->view, view->version);
	kappa_view_require_definition(version);
	table = kappa_options_get_table(version->source);
	kappa_options_check_reader(table, view->owner);
	client = kappa_kafka_open(kappa_options_get_connection(table->serverid, view->owner), false);
	n = kappa_kafka_partition_count(kappa_kafka_topic(client, table->topic), NULL);
	kappa_kafka_close(client);
	return n;
}

/* The beginning of the view stays what it was, so that a rebuild heals the gap. */
static void
store_seek(const KappaView *view, const KappaPosition *position, int n, int32 part,
		   int64 target)
{
	int64 *start = palloc(n * sizeof(int64));
	int64 *next = palloc(n * sizeof(int64));
	KappaCatalogScope scope;
	Oid types[] = { OIDOID, INT4OID, TEXTOID, INT4OID, INT8OID, INT8OID };
	Datum values[6];

	for (int i = 0; i < n; i++)
	{
		start[i] = i < position->npartitions ? position->start_offset[i] : -1;
		next[i] = i < position->npartitions ? position->next_offset[i] : -1;
	}
	values[4] = Int64GetDatum(Max(next[part], 0));
	next[part] = target;
	kappa_catalog_store_position(view->view, view->version, position->topic, n, start,
								 position->next_offset, position->npartitions, next);

	values[0] = ObjectIdGetDatum(view->view);
	values[1] = Int32GetDatum(view->version);
	values[2] = CStringGetTextDatum(position->topic);
	values[3] = Int32GetDatum(part);
	values[5] = Int64GetDatum(target);
	kappa_catalog_enter(&scope);
	if (SPI_execute_with_args("INSERT INTO kappa.gap (view, version, topic, part, from_offset, to_offset)"
							  " VALUES ($1, $2, $3, $4, $5, $6)",
							  6, types, values, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not record a gap");
	kappa_catalog_leave(&scope);
}

Datum
kappa_sql_seek_view(PG_FUNCTION_ARGS)
{
	KappaView *view = kappa_view_require_owned(PG_GETARG_OID(0), AccessShareLock);
	char *topic = text_to_cstring(PG_GETARG_TEXT_PP(1));
	int32 part = PG_GETARG_INT32(2);
	int64 target = PG_GETARG_INT64(3);
	KappaPosition *position;
	KappaFill *fill;
	int64 present;
	int n;

	view = kappa_catalog_lock_view(view->view);
	fill = kappa_fill_get(view->view, view->version);
	if (fill != NULL && fill->active)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the log is being replayed into view \"%s\"", get_rel_name(view->view)),
				 errhint("Wait with kappa.wait_for().")));
	position = kappa_catalog_get_position(view->view, view->version);
	if (strcmp(topic, position->topic) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("view \"%s\" does not read topic \"%s\"",
						get_rel_name(view->view), topic),
				 errdetail("It reads topic \"%s\".", position->topic)));
	n = count_partitions(view, position);
	if (part < 0 || part >= n)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("view \"%s\" does not read partition %d", get_rel_name(view->view), part),
				 errdetail("Its topic has partitions 0 to %d.", n - 1)));
	present = part < position->npartitions ? position->next_offset[part] : -1;
	if (target <= present || target < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a view can only be sought forward"),
				 errdetail("The next offset of partition %d is " INT64_FORMAT ".", part, present),
				 errhint("To read messages again, rebuild the view with kappa.rebuild().")));

	store_seek(view, position, n, part, target);
	kappa_catalog_add_event(view->view, "sought", 0, NULL,
							psprintf("partition %d: offset " INT64_FORMAT " to " INT64_FORMAT,
									 part, Max(present, 0), target));

	/* A worker that gets no messages has no other way to hear of it. */
	CacheInvalidateRelcacheByRelid(view->view);
	kappa_shmem_wake_at_commit();
	PG_RETURN_VOID();
}
