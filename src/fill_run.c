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
#include "utils/array.h"
#include "utils/memutils.h"

#include "catalog.h"
#include "fill_run.h"

/* Parameters of all statements: $1 and $2 are the version; others are int8, or arrays. */
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
#define FILL_COLUMNS "f.view::oid, f.version, f.staging::oid, f.active"

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
	"SELECT " FILL_COLUMNS " FROM kappa.fill f WHERE f.view = $1 AND f.version = $2"

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

	return select_fills("SELECT " FILL_COLUMNS " FROM kappa.fill f WHERE f.active", &none);
}

List *
kappa_fill_list_alike(const KappaFill *fill)
{
	Parameters parameters;

	set_version(&parameters, fill->view, fill->version);
	return select_fills("SELECT " FILL_COLUMNS " FROM kappa.fill f"
						" JOIN kappa.view_version n USING (view, version)"
						" JOIN pg_catalog.pg_class c ON c.oid = f.view"
						" WHERE f.active AND ((f.view, f.version) = ($1, $2)"
						" OR (n.source, c.relowner) = (SELECT m.source, o.relowner"
						"  FROM kappa.view_version m JOIN pg_catalog.pg_class o ON o.oid = m.view"
						"  WHERE m.view = $1 AND m.version = $2))"
						" ORDER BY f.view::oid, f.version",
						&parameters);
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

/* ---- claiming ranges ---- */

/* Add two parameters: the views and the versions of some fills. */
static void
add_fills(Parameters *parameters, const List *fills)
{
	int n = list_length(fills);
	Datum *views = palloc(n * sizeof(Datum));
	Datum *versions = palloc(n * sizeof(Datum));
	ListCell *lc;

	foreach(lc, fills)
	{
		KappaFill *fill = lfirst(lc);

		views[foreach_current_index(lc)] = ObjectIdGetDatum(fill->view);
		versions[foreach_current_index(lc)] = Int32GetDatum(fill->version);
	}
	parameters->types[parameters->n] = OIDARRAYOID;
	parameters->values[parameters->n++] =
		PointerGetDatum(construct_array(views, n, OIDOID, sizeof(Oid), true, TYPALIGN_INT));
	parameters->types[parameters->n] = INT4ARRAYOID;
	parameters->values[parameters->n++] =
		PointerGetDatum(construct_array(versions, n, INT4OID, sizeof(int32), true, TYPALIGN_INT));
}

/* Of the fills $3 and $4, ranges that go on where one of the version's does. */
#define ALIKE_RANGES \
	" FROM kappa.fill_range r WHERE r.next_offset < r.end_offset" \
	" AND (r.view::oid, r.version) IN (SELECT * FROM unnest($3, $4))" \
	" AND (r.part, r.next_offset) IN (SELECT m.part, m.next_offset FROM kappa.fill_range m" \
	"  WHERE m.view = $1 AND m.version = $2 AND m.next_offset < m.end_offset)"

/* For each place the first of them, where nobody has that. */
#define CLAIM_FIRST \
	"SELECT array_agg(part), array_agg(next_offset) FROM (" \
	"SELECT r.part, r.next_offset" ALIKE_RANGES \
	" AND NOT EXISTS (SELECT FROM kappa.fill_range b WHERE b.next_offset < b.end_offset" \
	"  AND (b.part, b.next_offset) = (r.part, r.next_offset)" \
	"  AND (b.view::oid, b.version) IN (SELECT * FROM unnest($3, $4))" \
	"  AND (b.view::oid, b.version) < (r.view::oid, r.version))" \
	" ORDER BY r.start_offset, r.part LIMIT $5 FOR UPDATE OF r SKIP LOCKED) AS claimed"

/* At the places $5 and $6 all of them. */
#define CLAIM_ALL \
	"SELECT r.view::oid, r.version, r.part, r.start_offset, r.next_offset," \
	" r.end_offset, r.shared" ALIKE_RANGES \
	" AND (r.part, r.next_offset) IN (SELECT * FROM unnest($5, $6))" \
	" ORDER BY r.view::oid, r.version, r.part FOR UPDATE OF r SKIP LOCKED"

/*
 * Lock each of the version's ranges by that of the first fill that has it, too:
 * so two processes that mean the same fills meet there.  Returns the arrays of
 * the ranges' partitions and next offsets in two parameters; false if there are
 * none.
 */
static bool
claim_first(Parameters *parameters, Parameters *claimed)
{
	run(CLAIM_FIRST, parameters);
	*claimed = *parameters;
	claimed->n = 4;
	for (int i = 0; i < 2; i++)
	{
		claimed->types[claimed->n] = i == 0 ? INT4ARRAYOID : INT8ARRAYOID;
		claimed->values[claimed->n++] = get_value(0, i + 1);
	}
	return get_value(0, 1) != (Datum) 0;
}

/* The share of a fill in what was locked: all that was claimed, or NULL. */
static KappaFillShare *
make_share(KappaFill *fill, int nclaimed)
{
	KappaFillShare *share = palloc0(sizeof(KappaFillShare));

	share->fill = fill;
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		KappaFillRange *range;

		if (DatumGetObjectId(get_value(i, 1)) != fill->view ||
			DatumGetInt32(get_value(i, 2)) != fill->version)
			continue;
		range = palloc0(sizeof(KappaFillRange));
		range->part = DatumGetInt32(get_value(i, 3));
		range->start_offset = DatumGetInt64(get_value(i, 4));
		range->next_offset = DatumGetInt64(get_value(i, 5));
		range->end_offset = DatumGetInt64(get_value(i, 6));
		range->shared = DatumGetInt64(get_value(i, 7));
		share->ranges = lappend(share->ranges, range);
	}
	return list_length(share->ranges) == nclaimed ? share : NULL;
}

/*
 * Lock the ranges of all fills that were claimed by the first of them.  NIL if
 * somebody has those of the version itself all the same.
 */
static List *
claim_all(const KappaFill *own, const List *fills, Parameters *claimed, MemoryContext context)
{
	int n = ARR_DIMS(DatumGetArrayTypeP(claimed->values[4]))[0];
	MemoryContext old;
	List *shares = NIL;
	bool found = false;
	ListCell *lc;

	run(CLAIM_ALL, claimed);
	old = MemoryContextSwitchTo(context);
	foreach(lc, fills)
	{
		KappaFillShare *share = make_share(lfirst(lc), n);

		if (share == NULL)
			continue;
		shares = lappend(shares, share);
		found |= share->fill->view == own->view && share->fill->version == own->version;
	}
	MemoryContextSwitchTo(old);
	return found ? shares : NIL;
}

List *
kappa_fill_claim(const KappaFill *fill, const List *fills, int max)
{
	MemoryContext context = CurrentMemoryContext;
	KappaCatalogScope scope;
	Parameters parameters;
	Parameters claimed;
	List *shares = NIL;

	set_version(&parameters, fill->view, fill->version);
	add_fills(&parameters, fills);
	add_parameter(&parameters, max);
	kappa_catalog_enter(&scope);
	if (claim_first(&parameters, &claimed))
		shares = claim_all(fill, fills, &claimed, context);
	kappa_catalog_leave(&scope);
	return shares;
}

/* ---- how far it is ---- */

void
kappa_fill_advance(Oid view, int32 version, const KappaFillRange *range)
{
	Parameters parameters;

	set_version(&parameters, view, version);
	add_parameter(&parameters, range->part);
	add_parameter(&parameters, range->start_offset);
	add_parameter(&parameters, range->next_offset);
	add_parameter(&parameters, range->shared);
	if (execute("UPDATE kappa.fill_range SET next_offset = $5, shared = $6"
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
		" coalesce(sum(next_offset - start_offset), 0)::int8, coalesce(sum(shared), 0)::int8"
		" FROM kappa.fill_range WHERE view = $1 AND version = $2",
		&parameters);
	progress->nopen = (int) DatumGetInt64(get_value(0, 1));
	progress->split = DatumGetBool(get_value(0, 2));
	progress->messages = DatumGetInt64(get_value(0, 3));
	progress->shared = DatumGetInt64(get_value(0, 4));
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
