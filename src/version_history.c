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

#include "catalog.h"
#include "version_history.h"

/* Run one statement as kappa, with a version as $1 and $2, and a text as $3 that may be NULL. */
static void
execute(const char *sql, Oid view, int32 version, const char *text)
{
	KappaCatalogScope scope;
	Oid types[] = { OIDOID, INT4OID, TEXTOID };
	Datum values[3];
	char nulls[] = { ' ', ' ', text == NULL ? 'n' : ' ' };

	values[0] = ObjectIdGetDatum(view);
	values[1] = Int32GetDatum(version);
	values[2] = text == NULL ? (Datum) 0 : CStringGetTextDatum(text);
	kappa_catalog_enter(&scope);
	if (SPI_execute_with_args(sql, 3, types, values, nulls, false, 0) < 0)
		elog(ERROR, "could not run: %s", sql);
	kappa_catalog_leave(&scope);
}

void
kappa_history_begin(Oid view, int32 version, const char *missing)
{
	execute("INSERT INTO kappa.version_history"
			" (view, version, query, settings, created_at, switched_at, missing)"
			" SELECT n.view, n.version, kappa.query_text(n.definition), n.settings, n.created_at,"
			" CASE WHEN v.version = n.version THEN n.created_at END,"
			" nullif(concat_ws(E'\\n', h.missing, $3), '')"
			" FROM kappa.view v JOIN kappa.view_version n USING (view)"
			" LEFT JOIN kappa.version_history h ON h.view = v.view AND h.version = v.version"
			" WHERE n.view = $1 AND n.version = $2",
			view, version, missing);
}

int32
kappa_history_get_last(Oid view)
{
	KappaCatalogScope scope;
	Oid types[] = { OIDOID };
	Datum values[] = { ObjectIdGetDatum(view) };
	bool isnull;
	Datum last;

	kappa_catalog_enter(&scope);
	if (SPI_execute_with_args("SELECT max(version) FROM kappa.version_history WHERE view = $1",
							  1, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read kappa.version_history");
	last = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	kappa_catalog_leave(&scope);
	return isnull ? 0 : DatumGetInt32(last);
}

void
kappa_history_switch(Oid view, int32 version)
{
	execute("UPDATE kappa.version_history SET switched_at = clock_timestamp()"
			" WHERE view = $1 AND version = $2",
			view, version, NULL);
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
			view, version, NULL);
}
