/*-------------------------------------------------------------------------
 *
 * fill_run.c
 *	  Typed access to kappa.fill: how far replays are
 *
 * IDENTIFICATION
 *	  src/fill_run.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/memutils.h"

#include "catalog.h"
#include "fill_run.h"

/* Parameters of all statements: $1 and $2 are the version; others are int8. */
typedef struct Parameters
{
	int n;
	Oid types[6];
	Datum values[6];
} Parameters;

static void
set_version(Parameters *parameters, Oid view, int32 version)
{
	parameters->n = 2;
	parameters->types[0] = OIDOID;
	parameters->values[0] = ObjectIdGetDatum(view);
	parameters->types[1] = INT4OID;
	parameters->values[1] = Int32GetDatum(version);
}

static void
add_parameter(Parameters *parameters, int64 value)
{
	parameters->types[parameters->n] = INT8OID;
	parameters->values[parameters->n++] = Int64GetDatum(value);
}

/* Inside a scope. */
static void
run(const char *sql, Parameters *parameters)
{
	if (SPI_execute_with_args(sql, parameters->n, parameters->types, parameters->values,
							  NULL, false, 0) < 0)
		elog(ERROR, "could not run: %s", sql);
}

/* In a scope of its own; returns the number of rows. */
static uint64
execute(const char *sql, Parameters *parameters)
{
	KappaCatalogScope scope;
	uint64 processed;

	kappa_catalog_enter(&scope);
	run(sql, parameters);
	processed = SPI_processed;
	kappa_catalog_leave(&scope);
	return processed;
}

static Datum
get_value(uint64 row, int column)
{
	bool isnull;
	Datum value = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &isnull);

	return isnull ? (Datum) 0 : value;
}

/* Rows of kappa.fill. */
#define FILL_COLUMNS "view::oid, version, staging::oid, active"

static List *
read_fills(MemoryContext context)
{
	List *fills = NIL;

	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		KappaFill *fill = palloc(sizeof(KappaFill));

		fill->view = DatumGetObjectId(get_value(i, 1));
		fill->version = DatumGetInt32(get_value(i, 2));
		fill->staging = DatumGetObjectId(get_value(i, 3));
		fill->active = DatumGetBool(get_value(i, 4));
		fills = lappend(fills, fill);
		MemoryContextSwitchTo(old);
	}
	return fills;
}

static List *
select_fills(const char *sql, Parameters *parameters)
{
	MemoryContext context = CurrentMemoryContext;
	KappaCatalogScope scope;
	List *fills;

	kappa_catalog_enter(&scope);
	run(sql, parameters);
	fills = read_fills(context);
	kappa_catalog_leave(&scope);
	return fills;
}

static KappaFill *
select_fill(const char *sql, Oid view, int32 version)
{
	Parameters parameters;
	List *fills;

	set_version(&parameters, view, version);
	fills = select_fills(sql, &parameters);
	return fills == NIL ? NULL : linitial(fills);
}

#define SELECT_FILL \
	"SELECT " FILL_COLUMNS " FROM kappa.fill WHERE view = $1 AND version = $2"

KappaFill *
kappa_fill_get(Oid view, int32 version)
{
	return select_fill(SELECT_FILL, view, version);
}

KappaFill *
kappa_fill_lock(Oid view, int32 version)
{
	return select_fill(SELECT_FILL " FOR UPDATE SKIP LOCKED", view, version);
}

List *
kappa_fill_list(void)
{
	Parameters none = { 0 };

	return select_fills("SELECT " FILL_COLUMNS " FROM kappa.fill WHERE active", &none);
}

void
kappa_fill_insert(Oid view, int32 version, Oid staging)
{
	Parameters parameters;

	set_version(&parameters, view, version);
	add_parameter(&parameters, staging);
	(void) execute("INSERT INTO kappa.fill (view, version, staging)"
				   " VALUES ($1, $2, nullif($3, 0)::oid)",
				   &parameters);
}

void
kappa_fill_insert_range(Oid view, int32 version, const KappaFillRange *range)
{
	Parameters parameters;

	set_version(&parameters, view, version);
	add_parameter(&parameters, range->part);
	add_parameter(&parameters, range->start_offset);
	add_parameter(&parameters, range->next_offset);
	add_parameter(&parameters, range->end_offset);
	(void) execute("INSERT INTO kappa.fill_range VALUES ($1, $2, $3, $4, $5, $6)", &parameters);
}

List *
kappa_fill_claim(Oid view, int32 version, int max)
{
	MemoryContext context = CurrentMemoryContext;
	KappaCatalogScope scope;
	Parameters parameters;
	List *ranges = NIL;

	set_version(&parameters, view, version);
	add_parameter(&parameters, max);
	kappa_catalog_enter(&scope);
	run("SELECT part, start_offset, next_offset, end_offset FROM kappa.fill_range"
		" WHERE view = $1 AND version = $2 AND next_offset < end_offset"
		" ORDER BY start_offset, part LIMIT $3 FOR UPDATE SKIP LOCKED",
		&parameters);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		KappaFillRange *range = palloc(sizeof(KappaFillRange));

		range->part = DatumGetInt32(get_value(i, 1));
		range->start_offset = DatumGetInt64(get_value(i, 2));
		range->next_offset = DatumGetInt64(get_value(i, 3));
		range->end_offset = DatumGetInt64(get_value(i, 4));
		ranges = lappend(ranges, range);
		MemoryContextSwitchTo(old);
	}
	kappa_catalog_leave(&scope);
	return ranges;
}

void
kappa_fill_advance(Oid view, int32 version, const KappaFillRange *range)
{
	Parameters parameters;

	set_version(&parameters, view, version);
	add_parameter(&parameters, range->part);
	add_parameter(&parameters, range->start_offset);
	add_parameter(&parameters, range->next_offset);
	if (execute("UPDATE kappa.fill_range SET next_offset = $5"
				" WHERE view = $1 AND version = $2 AND part = $3 AND start_offset = $4",
				&parameters) != 1)
		elog(ERROR, "a range of the log is gone");
}

void
kappa_fill_get_progress(Oid view, int32 version, KappaFillProgress *progress)
{
	KappaCatalogScope scope;
	Parameters parameters;

	set_version(&parameters, view, version);
	kappa_catalog_enter(&scope);
	run("SELECT count(*) FILTER (WHERE next_offset < end_offset), count(*) > count(DISTINCT part),"
		" coalesce(sum(next_offset - start_offset), 0)::int8"
		" FROM kappa.fill_range WHERE view = $1 AND version = $2",
		&parameters);
	progress->nopen = (int) DatumGetInt64(get_value(0, 1));
	progress->split = DatumGetBool(get_value(0, 2));
	progress->messages = DatumGetInt64(get_value(0, 3));
	kappa_catalog_leave(&scope);
}

void
kappa_fill_get_ends(Oid view, int32 version, int64 *next, int npartitions)
{
	KappaCatalogScope scope;
	Parameters parameters;

	set_version(&parameters, view, version);
	kappa_catalog_enter(&scope);
	run("SELECT part, max(end_offset) FROM kappa.fill_range"
		" WHERE view = $1 AND version = $2 GROUP BY part",
		&parameters);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		int32 part = DatumGetInt32(get_value(i, 1));

		if (part >= npartitions)
			elog(ERROR, "partition %d of a replay is not in its position", part);
		next[part] = DatumGetInt64(get_value(i, 2));
	}
	kappa_catalog_leave(&scope);
}

void
kappa_fill_move_position(Oid view, int32 version, int32 part, int64 next_offset)
{
	Parameters parameters;

	set_version(&parameters, view, version);
	add_parameter(&parameters, part);
	add_parameter(&parameters, next_offset);
	if (execute("UPDATE kappa.position SET next_offset[$3 + 1] = $4"
				" WHERE view = $1 AND version = $2",
				&parameters) != 1)
		elog(ERROR, "the position of a version is gone");
}

void
kappa_fill_delete(Oid view, int32 version)
{
	Parameters parameters;

	set_version(&parameters, view, version);
	(void) execute("WITH r AS (DELETE FROM kappa.fill_range WHERE view = $1 AND version = $2)"
				   " DELETE FROM kappa.fill WHERE view = $1 AND version = $2",
				   &parameters);
}

void
kappa_fill_abandon(Oid view, int32 version)
{
	Parameters parameters;

	set_version(&parameters, view, version);
	(void) execute("WITH r AS (DELETE FROM kappa.fill_range WHERE view = $1 AND version = $2)"
				   " UPDATE kappa.fill SET active = false, staging = NULL"
				   " WHERE view = $1 AND version = $2",
				   &parameters);
}
