/*-------------------------------------------------------------------------
 *
 * version_history.c
 *	  What is remembered of the versions of a view, also after they are gone
 *
 * IDENTIFICATION
 *	  src/version_history.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "version_history.h"

/* Run one statement as kappa, with a version as $1 and $2. */
static void
execute(const char *sql, Oid view, int32 version)
{
	KappaCatalogScope scope;
	Oid types[] = { OIDOID, INT4OID };
	Datum values[] = { ObjectIdGetDatum(view), Int32GetDatum(version) };

	kappa_catalog_enter(&scope);
	if (SPI_execute_with_args(sql, 2, types, values, NULL, false, 0) < 0)
		elog(ERROR, "could not run: %s", sql);
	kappa_catalog_leave(&scope);
}

void
kappa_history_begin(Oid view, int32 version, const char *missing, const KappaStart *start)
{
	KappaCatalogScope scope;
	Oid types[] = { OIDOID, INT4OID, TEXTOID, BOOLOID, TIMESTAMPTZOID };
	Datum values[5];
	char nulls[] = { ' ', ' ', missing == NULL ? 'n' : ' ', ' ', ' ' };

	values[0] = ObjectIdGetDatum(view);
	values[1] = Int32GetDatum(version);
	values[2] = missing == NULL ? (Datum) 0 : CStringGetTextDatum(missing);
	values[3] = BoolGetDatum(start != NULL);
	values[4] = TimestampTzGetDatum(start == NULL ? DT_NOBEGIN : start->at);
	kappa_catalog_enter(&scope);
	if (SPI_execute_with_args("INSERT INTO kappa.version_history"
							  " (view, version, query, settings, created_at, switched_at, missing, start_at)"
							  " SELECT n.view, n.version, kappa.query_text(n.definition), n.settings, n.created_at,"
							  " CASE WHEN v.version = n.version THEN n.created_at END,"
							  " nullif(concat_ws(E'\n', h.missing, $3), ''),"
							  " CASE WHEN $4 THEN nullif($5, '-infinity') ELSE h.start_at END"
							  " FROM kappa.view v JOIN kappa.view_version n USING (view)"
							  " LEFT JOIN kappa.version_history h ON h.view = v.view AND h.version = v.version"
							  " WHERE n.view = $1 AND n.version = $2",
							  5, types, values, nulls, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not record a version");
	kappa_catalog_leave(&scope);
}

/* What a query about a view and a version returns, or another value where it is null. */
static Datum
get_value(const char *sql, Oid view, int32 version, Datum otherwise)
{
	KappaCatalogScope scope;
	Oid types[] = { OIDOID, INT4OID };
	Datum values[] = { ObjectIdGetDatum(view), Int32GetDatum(version) };
	Datum value = otherwise;
	bool isnull = true;

	kappa_catalog_enter(&scope);
	if (SPI_execute_with_args(sql, 2, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read kappa.version_history");
	if (SPI_processed == 1)
		value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	kappa_catalog_leave(&scope);
	return isnull ? otherwise : value;
}

TimestampTz
kappa_history_get_start(Oid view, int32 version)
{
	return DatumGetTimestampTz(get_value("SELECT start_at FROM kappa.version_history"
										 " WHERE view = $1 AND version = $2",
										 view, version, TimestampTzGetDatum(DT_NOBEGIN)));
}

int32
kappa_history_get_last(Oid view)
{
	return DatumGetInt32(get_value("SELECT max(version) FROM kappa.version_history"
								   " WHERE view = $1 AND $2 = 0",
								   view, 0, Int32GetDatum(0)));
}

void
kappa_history_switch(Oid view, int32 version)
{
	execute("UPDATE kappa.version_history SET switched_at = clock_timestamp()"
			" WHERE view = $1 AND version = $2",
			view, version);
}

/*
 * The query as it reads now: what it refers to may have got other names.  Rows
 * are those that the statistics tell, as in kappa.versions.
 */
void
kappa_history_end(Oid view, int32 version)
{
	execute("UPDATE kappa.version_history h SET dropped_at = clock_timestamp(),"
			" query = coalesce(kappa.query_text(n.definition), h.query),"
			" topic = p.topic, start_offset = p.start_offset, next_offset = p.next_offset,"
			" rows = nullif(c.reltuples, -1),"
			" size = pg_total_relation_size(n.target) + coalesce(pg_total_relation_size(n.companion), 0)"
			" FROM kappa.view_version n LEFT JOIN kappa.position p USING (view, version)"
			" LEFT JOIN pg_class c ON c.oid = n.target"
			" WHERE h.view = $1 AND h.version = $2 AND n.view = $1 AND n.version = $2",
			view, version);
}
