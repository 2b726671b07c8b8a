/*-------------------------------------------------------------------------
 *
 * catalog.c
 *	  Typed access to kappa's own tables
 *
 * Everything goes through SPI as the owner of the extension, under a
 * search_path of pg_catalog alone: a caller's search_path must not be able to
 * put an operator of its own into these statements.  kappa_catalog_enter() and
 * kappa_catalog_leave() make that cover; an error in between is undone by the
 * abort of the (sub)transaction.
 *
 * IDENTIFICATION
 *	  src/catalog.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "kappa.h"

/*
 * Statements that run for each batch are prepared once in a process.  They
 * are parsed under the same search_path under which they run, so that they
 * are not parsed again.
 */
static SPIPlanPtr store_position_plan = NULL;
static SPIPlanPtr store_last_plan = NULL;

void
kappa_catalog_enter(KappaCatalogScope *scope)
{
	GetUserIdAndSecContext(&scope->userid, &scope->sec_context);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID,
						   scope->sec_context | SECURITY_LOCAL_USERID_CHANGE);
	scope->guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog",
							 PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	PushActiveSnapshot(GetTransactionSnapshot());
}

void
kappa_catalog_leave(KappaCatalogScope *scope)
{
	PopActiveSnapshot();
	SPI_finish();
	AtEOXact_GUC(true, scope->guc_level);
	SetUserIdAndSecContext(scope->userid, scope->sec_context);
}

/* Run one statement inside a scope; SPI's result stays for the caller. */
static void
run(const char *sql, int nargs, Oid *types, Datum *values, const char *nulls,
	int expected)
{
	int rc = SPI_execute_with_args(sql, nargs, types, values, nulls, false, 0);

	if (rc != expected)
		elog(ERROR, "unexpected SPI result %d of: %s", rc, sql);
}

/* Prepare and keep a statement inside a scope. */
static void
prepare(SPIPlanPtr *plan, const char *sql, int nargs, Oid *types)
{
	if (*plan != NULL)
		return;

	*plan = SPI_prepare(sql, nargs, types);
	if (*plan == NULL)
		elog(ERROR, "could not prepare: %s", sql);
	SPI_keepplan(*plan);
}

bool
kappa_catalog_installed(void)
{
	return OidIsValid(get_extension_oid("kappa", true));
}

bool
kappa_catalog_hold(void)
{
	for (;;)
	{
		Oid extension = get_extension_oid("kappa", true);

		if (!OidIsValid(extension))
			return false;
		LockDatabaseObject(ExtensionRelationId, extension, 0, AccessShareLock);

		/* It may have been dropped, and made anew, until it could be locked. */
		if (get_extension_oid("kappa", true) == extension)
			return true;
		UnlockDatabaseObject(ExtensionRelationId, extension, 0, AccessShareLock);
	}
}

/* ---- reading a result row ---- */

static Oid
get_oid(HeapTuple row, int column)
{
	bool isnull;
	Datum value = SPI_getbinval(row, SPI_tuptable->tupdesc, column, &isnull);

	return isnull ? InvalidOid : DatumGetObjectId(value);
}

static int32
get_int(HeapTuple row, int column)
{
	bool isnull;
	Datum value = SPI_getbinval(row, SPI_tuptable->tupdesc, column, &isnull);

	return isnull ? 0 : DatumGetInt32(value);
}

static int64
get_int8(HeapTuple row, int column)
{
	bool isnull;
	Datum value = SPI_getbinval(row, SPI_tuptable->tupdesc, column, &isnull);

	return isnull ? 0 : DatumGetInt64(value);
}

static bool
get_bool(HeapTuple row, int column)
{
	bool isnull;
	Datum value = SPI_getbinval(row, SPI_tuptable->tupdesc, column, &isnull);

	return !isnull && DatumGetBool(value);
}

/* A text column, in the caller's context; NULL for null. */
static char *
get_text(HeapTuple row, int column, MemoryContext context)
{
	char *value = SPI_getvalue(row, SPI_tuptable->tupdesc, column);

	return value == NULL ? NULL : MemoryContextStrdup(context, value);
}

/* A bigint[] column without nulls, in the caller's context. */
static int64 *
get_int8_array(HeapTuple row, int column, int *n, MemoryContext context)
{
	bool isnull;
	Datum value = SPI_getbinval(row, SPI_tuptable->tupdesc, column, &isnull);
	ArrayType *array = DatumGetArrayTypeP(value);
	int64 *result;

	if (isnull || ARR_HASNULL(array) || ARR_ELEMTYPE(array) != INT8OID)
		elog(ERROR, "unexpected array in kappa's tables");

	*n = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	result = MemoryContextAlloc(context, Max(*n, 1) * sizeof(int64));
	memcpy(result, ARR_DATA_PTR(array), *n * sizeof(int64));
	return result;
}

static Datum
make_int8_array(const int64 *values, int n)
{
	Datum *elements = palloc(Max(n, 1) * sizeof(Datum));

	for (int i = 0; i < n; i++)
		elements[i] = Int64GetDatum(values[i]);
	return PointerGetDatum(construct_array(elements, n, INT8OID, sizeof(int64),
										   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/* ---- views and versions ---- */

static KappaViewState
state_from_name(const char *name)
{
	if (strcmp(name, "running") == 0)
		return KAPPA_VIEW_RUNNING;
	return strcmp(name, "paused") == 0 ? KAPPA_VIEW_PAUSED : KAPPA_VIEW_STOPPED;
}

static const char *
state_name(KappaViewState state)
{
	switch (state)
	{
		case KAPPA_VIEW_RUNNING:
			return "running";
		case KAPPA_VIEW_PAUSED:
			return "paused";
		case KAPPA_VIEW_STOPPED:
			return "stopped";
	}
	elog(ERROR, "unknown view state %d", (int) state);
}

KappaView *
kappa_catalog_get_view(Oid view)
{
	MemoryContext context = CurrentMemoryContext;
	KappaCatalogScope scope;
	KappaView *result = NULL;
	Oid types[] = { OIDOID, INT8OID, OIDOID };
	Datum values[3];

	if (!kappa_catalog_installed())
		return NULL;

	values[0] = ObjectIdGetDatum(view);
	values[1] = Int64GetDatum((int64) GetSystemIdentifier());
	values[2] = ObjectIdGetDatum(MyDatabaseId);
	kappa_catalog_enter(&scope);
	run("SELECT v.kind, v.version, v.state, v.reason,"
		" (v.system_identifier, v.database) <> ($2, $3), c.relowner"
		" FROM kappa.view v JOIN pg_class c ON c.oid = v.view"
		" WHERE v.view = $1",
		3, types, values, NULL, SPI_OK_SELECT);
	if (SPI_processed == 1)
	{
		HeapTuple row = SPI_tuptable->vals[0];

		result = MemoryContextAllocZero(context, sizeof(KappaView));
		result->view = view;
		result->kind = get_text(row, 1, context);
		result->version = get_int(row, 2);
		result->state = state_from_name(SPI_getvalue(row, SPI_tuptable->tupdesc, 3));
		result->reason = get_text(row, 4, context);
		result->restored = get_bool(row, 5);
		result->owner = get_oid(row, 6);
	}
	kappa_catalog_leave(&scope);
	return result;
}

bool
kappa_catalog_get_status(Oid view, char **state, char **reason)
{
	MemoryContext context = CurrentMemoryContext;
	KappaCatalogScope scope;
	Oid types[] = { OIDOID };
	Datum values[] = { ObjectIdGetDatum(view) };
	bool found;

	kappa_catalog_enter(&scope);
	run("SELECT state, reason FROM kappa.views WHERE view = $1",
		1, types, values, NULL, SPI_OK_SELECT);
	found = SPI_processed == 1;
	if (found)
	{
		*state = get_text(SPI_tuptable->vals[0], 1, context);
		*reason = get_text(SPI_tuptable->vals[0], 2, context);
	}
	kappa_catalog_leave(&scope);
	return found;
}

KappaView *
kappa_catalog_lock_view(Oid view)
{
	KappaCatalogScope scope;
	Oid types[] = { OIDOID };
	Datum values[] = { ObjectIdGetDatum(view) };

	kappa_catalog_enter(&scope);
	run("SELECT FROM kappa.view WHERE view = $1 FOR UPDATE",
		1, types, values, NULL, SPI_OK_SELECT);
	kappa_catalog_leave(&scope);

	/* A new snapshot: what was waited for may have changed the row. */
	return kappa_catalog_get_view(view);
}

/* The elements of a text[] column. */
static Datum *
get_texts(HeapTuple row, int column, int *n)
{
	Datum *elements;
	bool isnull;
	Datum value = SPI_getbinval(row, SPI_tuptable->tupdesc, column, &isnull);

	deconstruct_array(DatumGetArrayTypeP(value), TEXTOID, -1, false,
					  TYPALIGN_INT, &elements, NULL, n);
	return elements;
}

/* Split 'name=value' elements; values may contain anything. */
static List *
get_settings(HeapTuple row, int column, MemoryContext context)
{
	MemoryContext old;
	List *settings = NIL;
	int n;
	Datum *elements = get_texts(row, column, &n);

	old = MemoryContextSwitchTo(context);
	for (int i = 0; i < n; i++)
	{
		KappaSetting *setting = palloc(sizeof(KappaSetting));
		char *equals;

		setting->name = TextDatumGetCString(elements[i]);
		equals = strchr(setting->name, '=');
		if (equals == NULL)
			elog(ERROR, "unexpected setting \"%s\"", setting->name);
		*equals = '\0';
		setting->value = equals + 1;
		settings = lappend(settings, setting);
	}
	MemoryContextSwitchTo(old);
	return settings;
}

/* A text[] column as a list of C strings. */
static List *
get_names(HeapTuple row, int column, MemoryContext context)
{
	MemoryContext old;
	List *names = NIL;
	int n;
	Datum *elements = get_texts(row, column, &n);

	old = MemoryContextSwitchTo(context);
	for (int i = 0; i < n; i++)
		names = lappend(names, TextDatumGetCString(elements[i]));
	MemoryContextSwitchTo(old);
	return names;
}

/* The other way round. */
Datum
kappa_catalog_make_names(const List *names)
{
	Datum *elements = palloc(Max(list_length(names), 1) * sizeof(Datum));
	int n = 0;
	ListCell *lc;

	foreach(lc, names)
		elements[n++] = CStringGetTextDatum(lfirst(lc));
	return PointerGetDatum(construct_array(elements, n, TEXTOID, -1, false, TYPALIGN_INT));
}

#define VERSION_COLUMNS \
	"n.view, n.version, n.definition, n.source, n.target, n.companion," \
	" n.fingerprint, n.settings, n.version = v.version, n.source_views, n.functions," \
	" n.key_columns, n.kept_until, v.message_rate"

static KappaVersion *
read_version(HeapTuple row, MemoryContext context)
{
	KappaVersion *version = MemoryContextAllocZero(context, sizeof(KappaVersion));

	version->view = get_oid(row, 1);
	version->version = get_int(row, 2);
	version->definition = get_oid(row, 3);
	version->source = get_oid(row, 4);
	version->target = get_oid(row, 5);
	version->companion = get_oid(row, 6);
	version->fingerprint = get_text(row, 7, context);
	version->settings = get_settings(row, 8, context);
	version->live = get_bool(row, 9);
	version->source_views = get_text(row, 10, context);
	version->functions = get_names(row, 11, context);
	version->key = get_names(row, 12, context);
	version->kept_until = get_int8(row, 13); /* a timestamptz is an int64 */
	version->message_rate = get_int(row, 14);
	return version;
}

int32
kappa_catalog_get_latest_number(Oid view)
{
	KappaCatalogScope scope;
	Oid types[] = { OIDOID };
	Datum values[] = { ObjectIdGetDatum(view) };
	int32 number = 0;

	kappa_catalog_enter(&scope);
	PushActiveSnapshot(GetLatestSnapshot());
	if (SPI_execute_with_args("SELECT version FROM kappa.view WHERE view = $1",
							  1, types, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read kappa.view");
	if (SPI_processed == 1)
		number = get_int(SPI_tuptable->vals[0], 1);
	PopActiveSnapshot();
	kappa_catalog_leave(&scope);
	return number;
}

KappaVersion *
kappa_catalog_get_version(Oid view, int32 version)
{
	MemoryContext context = CurrentMemoryContext;
	KappaCatalogScope scope;
	KappaVersion *result = NULL;
	Oid types[] = { OIDOID, INT4OID };
	Datum values[] = { ObjectIdGetDatum(view), Int32GetDatum(version) };

	kappa_catalog_enter(&scope);
	run("SELECT " VERSION_COLUMNS
		" FROM kappa.view_version n JOIN kappa.view v USING (view)"
		" WHERE n.view = $1 AND n.version = $2",
		2, types, values, NULL, SPI_OK_SELECT);
	if (SPI_processed == 1)
		result = read_version(SPI_tuptable->vals[0], context);
	kappa_catalog_leave(&scope);
	return result;
}

/* The versions that a statement of VERSION_COLUMNS has returned. */
static List *
read_versions(MemoryContext context)
{
	List *result = NIL;

	for (uint64 i = 0; i < SPI_processed; i++)
	{
		KappaVersion *version = read_version(SPI_tuptable->vals[i], context);
		MemoryContext old = MemoryContextSwitchTo(context);

		result = lappend(result, version);
		MemoryContextSwitchTo(old);
	}
	return result;
}

List *
kappa_catalog_list_versions(Oid view)
{
	MemoryContext context = CurrentMemoryContext;
	KappaCatalogScope scope;
	List *result;
	Oid types[] = { OIDOID };
	Datum values[] = { ObjectIdGetDatum(view) };

	kappa_catalog_enter(&scope);
	run("SELECT " VERSION_COLUMNS
		" FROM kappa.view_version n JOIN kappa.view v USING (view)"
		" WHERE n.view = $1 ORDER BY n.version",
		1, types, values, NULL, SPI_OK_SELECT);
	result = read_versions(context);
	kappa_catalog_leave(&scope);
	return result;
}

/*
 * A view that was restored from a dump does not run, whatever its state says:
 * the restore may still be under way.
 */
List *
kappa_catalog_list_runnable(void)
{
	MemoryContext context = CurrentMemoryContext;
	KappaCatalogScope scope;
	List *result;
	Oid types[] = { INT8OID, OIDOID };
	Datum values[2];

	values[0] = Int64GetDatum((int64) GetSystemIdentifier());
	values[1] = ObjectIdGetDatum(MyDatabaseId);
	kappa_catalog_enter(&scope);
	run("SELECT " VERSION_COLUMNS
		" FROM kappa.view_version n JOIN kappa.view v USING (view)"
		" JOIN pg_class c ON c.oid = v.view"
		" WHERE v.system_identifier = $1 AND v.database = $2"
		" AND (v.state = 'running' OR n.version <> v.version AND v.state <> 'paused')"
		" AND NOT EXISTS (SELECT FROM kappa.rebuild_run r WHERE r.view = n.view"
		" AND r.version = n.version AND r.paused_at IS NOT NULL AND r.finished_at IS NULL)"
		" ORDER BY n.view::oid, n.version",
		2, types, values, NULL, SPI_OK_SELECT);
	result = read_versions(context);
	kappa_catalog_leave(&scope);
	return result;
}

/* ---- positions ---- */

/* Run a SELECT about a version inside a scope: through a snapshot, or a fresh one if it is NULL. */
static void
select_for_version(const char *sql, Oid view, int32 version, Snapshot snapshot)
{
	Oid types[] = { OIDOID, INT4OID };
	Datum values[] = { ObjectIdGetDatum(view), Int32GetDatum(version) };

	if (snapshot == InvalidSnapshot)
	{
		run(sql, 2, types, values, NULL, SPI_OK_SELECT);
		return;
	}
	PushActiveSnapshot(snapshot);
	if (SPI_execute_with_args(sql, 2, types, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not run: %s", sql);
	PopActiveSnapshot();
}

KappaPosition *
kappa_catalog_get_position(Oid view, int32 version)
{
	return kappa_catalog_get_position_at(view, version, InvalidSnapshot);
}

KappaPosition *
kappa_catalog_get_position_at(Oid view, int32 version, Snapshot snapshot)
{
	MemoryContext context = CurrentMemoryContext;
	KappaCatalogScope scope;
	KappaPosition *result = NULL;

	kappa_catalog_enter(&scope);
	select_for_version("SELECT topic, start_offset, next_offset FROM kappa.position"
					   " WHERE view = $1 AND version = $2",
					   view, version, snapshot);
	if (SPI_processed == 1)
	{
		HeapTuple row = SPI_tuptable->vals[0];
		int n;

		result = MemoryContextAllocZero(context, sizeof(KappaPosition));
		result->topic = get_text(row, 1, context);
		result->start_offset = get_int8_array(row, 2, &n, context);
		result->next_offset = get_int8_array(row, 3, &result->npartitions, context);
		if (n != result->npartitions)
			elog(ERROR, "arrays of different length in kappa.position");
	}
	kappa_catalog_leave(&scope);
	return result;
}

List *
kappa_catalog_list_gaps_at(Oid view, int32 version, Snapshot snapshot)
{
	MemoryContext context = CurrentMemoryContext;
	KappaCatalogScope scope;
	List *result = NIL;

	kappa_catalog_enter(&scope);
	select_for_version("SELECT part, from_offset, to_offset FROM kappa.gap"
					   " WHERE view = $1 AND version = $2"
					   " UNION ALL SELECT part, pos, pos + 1 FROM kappa.dead_letter"
					   " WHERE view = $1 AND version = $2 ORDER BY part, from_offset",
					   view, version, snapshot);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple row = SPI_tuptable->vals[i];
		MemoryContext old = MemoryContextSwitchTo(context);
		KappaGap *gap = palloc(sizeof(KappaGap));

		gap->part = get_int(row, 1);
		gap->from_offset = get_int8(row, 2);
		gap->to_offset = get_int8(row, 3);
		result = lappend(result, gap);
		MemoryContextSwitchTo(old);
	}
	kappa_catalog_leave(&scope);
	return result;
}

void
kappa_catalog_store_position(Oid view, int32 version, const char *topic,
							 int npartitions, const int64 *start_offset,
							 const int64 *old_next, int old_npartitions,
							 const int64 *new_next)
{
	KappaCatalogScope scope;
	Oid types[] = { OIDOID, INT4OID, TEXTOID, INT8ARRAYOID, INT8ARRAYOID, INT8ARRAYOID };
	Datum values[6];

	kappa_catalog_enter(&scope);
	prepare(&store_position_plan,
			"UPDATE kappa.position SET start_offset = $4, next_offset = $6"
			" WHERE view = $1 AND version = $2 AND topic = $3 AND next_offset = $5",
			6, types);
	values[0] = ObjectIdGetDatum(view);
	values[1] = Int32GetDatum(version);
	values[2] = CStringGetTextDatum(topic);
	values[3] = make_int8_array(start_offset, npartitions);
	values[4] = make_int8_array(old_next, old_npartitions);
	values[5] = make_int8_array(new_next, npartitions);
	if (SPI_execute_plan(store_position_plan, values, NULL, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not store a position");
	if (SPI_processed != 1)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("position of view \"%s\" has been moved by another process",
						get_rel_name(view))));
	kappa_catalog_leave(&scope);
}

KappaLastMessage *
kappa_catalog_get_last_messages(Oid view, int32 version)
{
	MemoryContext context = CurrentMemoryContext;
	KappaCatalogScope scope;
	KappaLastMessage *result = NULL;
	Oid types[] = { OIDOID, INT4OID };
	Datum values[] = { ObjectIdGetDatum(view), Int32GetDatum(version) };

	kappa_catalog_enter(&scope);
	run("SELECT last_offset, last_timestamp, last_crc FROM kappa.last_message"
		" WHERE view = $1 AND version = $2",
		2, types, values, NULL, SPI_OK_SELECT);
	if (SPI_processed == 1)
	{
		HeapTuple row = SPI_tuptable->vals[0];
		int *n;

		result = MemoryContextAllocZero(context, sizeof(KappaLastMessage));
		n = &result->npartitions;
		result->offset = get_int8_array(row, 1, n, context);
		result->timestamp = get_int8_array(row, 2, n, context);
		result->crc = get_int8_array(row, 3, n, context);
	}
	kappa_catalog_leave(&scope);
	return result;
}

void
kappa_catalog_store_last_messages(Oid view, int32 version, const char *topic,
								  const KappaLastMessage *last)
{
	KappaCatalogScope scope;
	Oid types[] = { OIDOID, INT4OID, TEXTOID, INT8ARRAYOID, INT8ARRAYOID, INT8ARRAYOID };
	Datum values[6];

	kappa_catalog_enter(&scope);
	prepare(&store_last_plan,
			"INSERT INTO kappa.last_message AS m VALUES ($1, $2, $3, $4, $5, $6)"
			" ON CONFLICT (view, version, topic) DO UPDATE SET"
			" last_offset = excluded.last_offset,"
			" last_timestamp = excluded.last_timestamp,"
			" last_crc = excluded.last_crc",
			6, types);
	values[0] = ObjectIdGetDatum(view);
	values[1] = Int32GetDatum(version);
	values[2] = CStringGetTextDatum(topic);
	values[3] = make_int8_array(last->offset, last->npartitions);
	values[4] = make_int8_array(last->timestamp, last->npartitions);
	values[5] = make_int8_array(last->crc, last->npartitions);
	if (SPI_execute_plan(store_last_plan, values, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not store last messages");
	kappa_catalog_leave(&scope);
}

/* ---- state and events ---- */

void
kappa_catalog_set_state(Oid view, KappaViewState state, const char *reason,
						const char *event)
{
	KappaCatalogScope scope;
	Oid types[] = { OIDOID, TEXTOID, TEXTOID };
	Datum values[3];
	char nulls[] = { ' ', ' ', reason == NULL ? 'n' : ' ' };

	kappa_catalog_enter(&scope);
	values[0] = ObjectIdGetDatum(view);
	values[1] = CStringGetTextDatum(state_name(state));
	values[2] = reason == NULL ? (Datum) 0 : CStringGetTextDatum(reason);
	run("UPDATE kappa.view SET state = $2, reason = $3, since = clock_timestamp()"
		" WHERE view = $1",
		3, types, values, nulls, SPI_OK_UPDATE);
	kappa_catalog_leave(&scope);
	kappa_catalog_add_event(view, event, 0, NULL, reason);
}

static bool
is_null(HeapTuple row, int column)
{
	bool isnull;

	(void) SPI_getbinval(row, SPI_tuptable->tupdesc, column, &isnull);
	return isnull;
}

void
kappa_catalog_get_limits(Oid view, KappaLimits *limits)
{
	KappaCatalogScope scope;
	Oid types[] = { OIDOID };
	Datum values[] = { ObjectIdGetDatum(view) };

	memset(limits, 0, sizeof(*limits));
	kappa_catalog_enter(&scope);
	run("SELECT dead_letter_limit, dead_letter_percent, message_rate FROM kappa.view"
		" WHERE view = $1",
		1, types, values, NULL, SPI_OK_SELECT);
	if (SPI_processed == 1)
	{
		HeapTuple row = SPI_tuptable->vals[0];

		limits->has_dead_letter_limit = !is_null(row, 1);
		limits->dead_letter_limit = get_int(row, 1);
		limits->has_dead_letter_percent = !is_null(row, 2);
		limits->dead_letter_percent = get_int(row, 2);
		limits->message_rate = get_int(row, 3);
	}
	kappa_catalog_leave(&scope);
}

void
kappa_catalog_set_limits(Oid view, const KappaLimits *limits)
{
	KappaCatalogScope scope;
	Oid types[] = { OIDOID, INT4OID, INT4OID, INT4OID };
	Datum values[] = {
		ObjectIdGetDatum(view),
		Int32GetDatum(limits->dead_letter_limit),
		Int32GetDatum(limits->dead_letter_percent),
		Int32GetDatum(limits->message_rate),
	};
	char nulls[] = { ' ', limits->has_dead_letter_limit ? ' ' : 'n',
					 limits->has_dead_letter_percent ? ' ' : 'n',
					 limits->message_rate > 0 ? ' ' : 'n' };

	kappa_catalog_enter(&scope);
	run("UPDATE kappa.view SET dead_letter_limit = $2, dead_letter_percent = $3,"
		" message_rate = $4 WHERE view = $1",
		4, types, values, nulls, SPI_OK_UPDATE);
	kappa_catalog_leave(&scope);
}

/* version 0: the live version.  A view that is gone gets no event. */
void
kappa_catalog_add_event(Oid view, const char *event, int32 version,
						const char *sqlstate, const char *detail)
{
	KappaCatalogScope scope;
	Oid types[] = { OIDOID, TEXTOID, INT4OID, TEXTOID, TEXTOID };
	Datum values[5];
	char nulls[] = { ' ', ' ', version == 0 ? 'n' : ' ',
					 sqlstate == NULL ? 'n' : ' ', detail == NULL ? 'n' : ' ' };

	kappa_catalog_enter(&scope);
	values[0] = ObjectIdGetDatum(view);
	values[1] = CStringGetTextDatum(event);
	values[2] = Int32GetDatum(version);
	values[3] = sqlstate == NULL ? (Datum) 0 : CStringGetTextDatum(sqlstate);
	values[4] = detail == NULL ? (Datum) 0 : CStringGetTextDatum(detail);
	run("INSERT INTO kappa.event (view, view_name, event, version, sqlstate, detail)"
		" SELECT view, format('%I.%I', nspname, relname), $2, coalesce($3, v.version), $4, $5"
		" FROM kappa.view v JOIN pg_class c ON c.oid = view"
		" JOIN pg_namespace n ON n.oid = relnamespace WHERE view = $1",
		5, types, values, nulls, SPI_OK_INSERT);
	kappa_catalog_leave(&scope);
}
