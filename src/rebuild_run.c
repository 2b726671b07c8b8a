/*-------------------------------------------------------------------------
 *
 * rebuild_run.c
 *	  Typed access to kappa.rebuild_run: how rebuilds are doing
 *
 * IDENTIFICATION
 *	  src/rebuild_run.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "catalog.h"
#include "kappa.h"
#include "rebuild_run.h"

/* Run one statement as kappa.  Returns the number of rows that it changed. */
static uint64
execute(const char *sql, int nargs, Oid *types, Datum *values, const char *nulls)
{
	KappaCatalogScope scope;
	uint64 changed;

	kappa_catalog_enter(&scope);
	if (SPI_execute_with_args(sql, nargs, types, values, nulls, false, 0) < 0)
		elog(ERROR, "could not run: %s", sql);
	changed = SPI_processed;
	kappa_catalog_leave(&scope);
	return changed;
}

static char *
get_text(int column, MemoryContext context)
{
	char *value = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column);

	return value == NULL ? NULL : MemoryContextStrdup(context, value);
}

static bool
get_bool(int column)
{
	bool isnull;
	Datum value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
								column, &isnull);

	return !isnull && DatumGetBool(value);
}

KappaRebuildRun *
kappa_rebuild_run_get(Oid view)
{
	MemoryContext context = CurrentMemoryContext;
	KappaCatalogScope scope;
	KappaRebuildRun *run = NULL;
	Oid types[] = { OIDOID };
	Datum values[] = { ObjectIdGetDatum(view) };

	kappa_catalog_enter(&scope);
	if (SPI_execute_with_args("SELECT version, asked, switch, phase, error,"
							  " finished_at IS NOT NULL,"
							  " coalesce(r.xmin = pg_current_xact_id_if_assigned()::xid, false),"
							  " keep_previous, paused_at IS NOT NULL"
							  " FROM kappa.rebuild_run r WHERE view = $1"
							  " ORDER BY version DESC LIMIT 1",
							  1, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read kappa.rebuild_run");
	if (SPI_processed == 1)
	{
		bool isnull;

		run = MemoryContextAllocZero(context, sizeof(KappaRebuildRun));
		run->version = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0],
												   SPI_tuptable->tupdesc, 1, &isnull));
		run->asked = get_text(2, context);
		run->switch_kind = get_text(3, context);
		run->phase = get_text(4, context);
		run->error = get_text(5, context);
		run->finished = get_bool(6);
		run->uncommitted = get_bool(7);
		run->keep_previous = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0],
														 SPI_tuptable->tupdesc, 8, &isnull));
		run->paused = get_bool(9);
	}
	kappa_catalog_leave(&scope);
	return run;
}

void
kappa_rebuild_run_insert(Oid view, int32 version, const char *asked,
						 const char *switch_kind, int64 messages_total)
{
	Oid types[] = { OIDOID, INT4OID, TEXTOID, TEXTOID, TEXTOID, INT8OID, INT4OID };
	Datum values[7];

	values[0] = ObjectIdGetDatum(view);
	values[1] = Int32GetDatum(version);
	values[2] = CStringGetTextDatum(asked);
	values[3] = CStringGetTextDatum(switch_kind);
	values[4] = CStringGetTextDatum(KAPPA_PHASE_REPLAYING);
	values[5] = Int64GetDatum(messages_total);
	values[6] = Int32GetDatum(kappa_keep_previous);
	(void) execute("WITH d AS (DELETE FROM kappa.rebuild_run WHERE view = $1)"
				   " INSERT INTO kappa.rebuild_run"
				   " (view, version, asked, switch, phase, messages_total, keep_previous)"
				   " VALUES ($1, $2, $3, $4, $5, $6, $7)",
				   7, types, values, NULL);
}

void
kappa_rebuild_run_report(Oid view, int32 version, const char *phase,
						 int64 messages, int waiting_for)
{
	Oid types[] = { OIDOID, INT4OID, TEXTOID, INT8OID, INT4OID, TEXTOID, TEXTOID };
	Datum values[7];

	values[0] = ObjectIdGetDatum(view);
	values[1] = Int32GetDatum(version);
	values[2] = CStringGetTextDatum(phase);
	values[3] = Int64GetDatum(messages);
	values[4] = Int32GetDatum(waiting_for);
	values[5] = CStringGetTextDatum(KAPPA_PHASE_REPLAYING);
	values[6] = CStringGetTextDatum(KAPPA_PHASE_CATCHING_UP);
	(void) execute("UPDATE kappa.rebuild_run SET messages = $4, waiting_for = nullif($5, 0),"
				   " phase = CASE WHEN $3 = $6 AND replayed_at IS NOT NULL THEN $7 ELSE $3 END,"
				   " replayed_at = CASE WHEN $3 = $6 THEN replayed_at"
				   "  ELSE coalesce(replayed_at, clock_timestamp()) END"
				   " WHERE view = $1 AND version = $2 AND finished_at IS NULL",
				   7, types, values, NULL);
}

List *
kappa_rebuild_run_list_ready(void)
{
	MemoryContext context = CurrentMemoryContext;
	Oid types[] = { TEXTOID };
	Datum values[] = { CStringGetTextDatum(KAPPA_PHASE_CATCHING_UP) };
	KappaCatalogScope scope;
	List *views = NIL;
	MemoryContext old;

	kappa_catalog_enter(&scope);
	if (SPI_execute_with_args("SELECT view::oid FROM kappa.rebuild_run"
							  " WHERE finished_at IS NULL AND phase = $1",
							  1, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read kappa.rebuild_run");
	old = MemoryContextSwitchTo(context);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool isnull;

		views = lappend_oid(views, DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i],
																  SPI_tuptable->tupdesc, 1,
																  &isnull)));
	}
	MemoryContextSwitchTo(old);
	kappa_catalog_leave(&scope);
	return views;
}

void
kappa_rebuild_run_add_messages(Oid view, int32 version, int64 messages)
{
	Oid types[] = { OIDOID, INT4OID, INT8OID };
	Datum values[3];

	values[0] = ObjectIdGetDatum(view);
	values[1] = Int32GetDatum(version);
	values[2] = Int64GetDatum(messages);
	(void) execute("UPDATE kappa.rebuild_run SET messages = messages + $3"
				   " WHERE view = $1 AND version = $2 AND finished_at IS NULL",
				   3, types, values, NULL);
}

static bool
set_text(const char *sql, Oid view, int32 version, const char *value)
{
	Oid types[] = { OIDOID, INT4OID, TEXTOID };
	Datum values[3];

	values[0] = ObjectIdGetDatum(view);
	values[1] = Int32GetDatum(version);
	values[2] = CStringGetTextDatum(value);
	return execute(sql, 3, types, values, NULL) == 1;
}

bool
kappa_rebuild_run_set_asked(Oid view, int32 version, const char *asked)
{
	return set_text("UPDATE kappa.rebuild_run SET asked = $3"
					" WHERE view = $1 AND version = $2 AND finished_at IS NULL",
					view, version, asked);
}

bool
kappa_rebuild_run_set_switch(Oid view, int32 version, const char *switch_kind)
{
	return set_text("UPDATE kappa.rebuild_run SET switch = $3"
					" WHERE view = $1 AND version = $2 AND finished_at IS NULL",
					view, version, switch_kind);
}

bool
kappa_rebuild_run_set_paused(Oid view, int32 version, bool paused)
{
	Oid types[] = { OIDOID, INT4OID, BOOLOID };
	Datum values[3];

	values[0] = ObjectIdGetDatum(view);
	values[1] = Int32GetDatum(version);
	values[2] = BoolGetDatum(paused);
	return execute("UPDATE kappa.rebuild_run SET"
				   " paused_at = CASE WHEN $3 THEN clock_timestamp() END,"
				   " paused_for = paused_for + CASE WHEN replayed_at IS NULL"
				   " THEN coalesce(clock_timestamp() - paused_at, '0') ELSE '0' END"
				   " WHERE view = $1 AND version = $2 AND finished_at IS NULL"
				   " AND (paused_at IS NOT NULL) <> $3",
				   3, types, values, NULL) == 1;
}

void
kappa_rebuild_run_finish(Oid view, int32 version, const char *phase,
						 const char *error)
{
	Oid types[] = { OIDOID, INT4OID, TEXTOID, TEXTOID };
	Datum values[4];
	char nulls[] = { ' ', ' ', ' ', error == NULL ? 'n' : ' ' };

	values[0] = ObjectIdGetDatum(view);
	values[1] = Int32GetDatum(version);
	values[2] = CStringGetTextDatum(phase);
	values[3] = error == NULL ? (Datum) 0 : CStringGetTextDatum(error);
	(void) execute("UPDATE kappa.rebuild_run SET phase = $3, error = $4, waiting_for = NULL,"
				   " finished_at = clock_timestamp()"
				   " WHERE view = $1 AND version = $2 AND finished_at IS NULL",
				   4, types, values, nulls);
}
