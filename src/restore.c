/*-------------------------------------------------------------------------
 *
 * restore.c
 *	  Views that come from a dump or a copy of a database
 *
 * A dump is restored piece by piece: kappa's own tables before the rows, the
 * keys and the triggers of the views.  A worker that started by itself would
 * meet half of it.  So a view runs only where it ran last, which its row in
 * kappa.view says by the identifiers of cluster and database; anywhere else it
 * is "restored" until kappa.resume_view() adopts it.
 *
 * The identifiers alone would miss a dump that is restored over the database
 * that it was taken from.  Triggers on kappa's tables therefore clear them in
 * rows that kappa has not inserted itself, and put back what no dump carries:
 * that the definition and the state of a view go away with its table.
 *
 * IDENTIFICATION
 *	  src/restore.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "definition.h"
#include "definition_functions.h"
#include "kappa.h"
#include "restore.h"

PG_FUNCTION_INFO_V1(kappa_sql_note_restored);

/* ---- while a dump is restored ---- */

static Oid
get_oid(TriggerData *trigger, const char *column)
{
	int attnum = SPI_fnumber(RelationGetDescr(trigger->tg_relation), column);
	bool isnull;
	Datum value = heap_getattr(trigger->tg_trigtuple, attnum,
							   RelationGetDescr(trigger->tg_relation), &isnull);

	return isnull ? InvalidOid : DatumGetObjectId(value);
}

/* A row of kappa.view that belongs to no cluster. */
static HeapTuple
disown_view(TriggerData *trigger)
{
	int attnum = SPI_fnumber(RelationGetDescr(trigger->tg_relation), "system_identifier");
	Datum value = Int64GetDatum(0);
	bool isnull = false;

	return heap_modify_tuple_by_cols(trigger->tg_trigtuple,
									 RelationGetDescr(trigger->tg_relation),
									 1, &attnum, &value, &isnull);
}

/* A row of kappa.view_version: what it names goes away with the view. */
static void
attach_version(TriggerData *trigger)
{
	static const char *const columns[] = { "definition", "companion", "target" };
	Oid view = get_oid(trigger, "view");

	for (int i = 0; i < lengthof(columns); i++)
	{
		Oid relid = get_oid(trigger, columns[i]);

		if (relid != view && get_rel_name(relid) != NULL && get_rel_name(view) != NULL)
			kappa_definition_depend(relid, view);
	}
}

/*
 * kappa.note_restored(), for each row that is inserted into kappa.view and
 * kappa.view_version.  kappa's own statements run as another user than the
 * session's, which those of a restore do not.
 *
 * What the rows say is believed, so no other table will do: nobody else may
 * have objects depend on each other that are not his.
 */
Datum
kappa_sql_note_restored(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	HeapTuple tuple;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BY_INSERT(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		RelationGetNamespace(trigger->tg_relation) != get_namespace_oid(KAPPA_SCHEMA, true))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("kappa.note_restored() was not called as a trigger for rows inserted into a table of kappa")));
	tuple = trigger->tg_trigtuple;
	if (InLocalUserIdChange())
		return PointerGetDatum(tuple);
	if (TRIGGER_FIRED_BEFORE(trigger->tg_event))
		tuple = disown_view(trigger);
	else
		attach_version(trigger);
	return PointerGetDatum(tuple);
}

/* ---- afterwards ---- */

/*
 * Dependencies are made here, too: in a copy they are there, but a restore of
 * the data alone may have disabled triggers.
 */
static void
attach_versions(Oid view)
{
	ListCell *lc;

	foreach(lc, kappa_catalog_list_versions(view))
	{
		KappaVersion *version = lfirst(lc);
		Oid relations[] = { version->definition, version->companion, version->target };

		for (int i = 0; i < lengthof(relations); i++)
			if (OidIsValid(relations[i]) && relations[i] != view)
				kappa_definition_depend(relations[i], view);
	}
}

/*
 * Another major version of PostgreSQL cannot tell whether SQL views, and
 * functions whose body it has parsed, are what they were: from now on it can.
 * What has changed for certain is left to the worker to tell.
 */
static void
renew_hashes(const KappaVersion *version)
{
	KappaCatalogScope scope;
	Oid types[] = { OIDOID, INT4OID, TEXTOID, TEXTARRAYOID };
	Datum values[4];
	char nulls[] = "    ";
	List *views;
	List *callees;
	char *hash;

	if (!OidIsValid(version->definition))
		return;
	hash = kappa_definition_hash_sources(version->definition, &views);
	callees = kappa_definition_list_callees(version->definition, NULL);
	if (!kappa_definition_same_sources(version->source_views, hash) ||
		OidIsValid(kappa_definition_find_changed_callee(callees, version->functions)))
		return;
	values[0] = ObjectIdGetDatum(version->view);
	values[1] = Int32GetDatum(version->version);
	if (hash == NULL)
		nulls[2] = 'n';
	else
		values[2] = CStringGetTextDatum(hash);
	values[3] = kappa_catalog_make_names(kappa_definition_hash_callees(callees));
	kappa_catalog_enter(&scope);
	if (SPI_execute_with_args("UPDATE kappa.view_version SET source_views = $3, functions = $4"
							  " WHERE view = $1 AND version = $2",
							  4, types, values, nulls, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not adopt a restored version");
	kappa_catalog_leave(&scope);
}

void
kappa_restore_adopt(const KappaView *view)
{
	KappaCatalogScope scope;
	ListCell *lc;
	Oid types[] = { OIDOID, INT8OID, OIDOID };
	Datum values[3];

	attach_versions(view->view);
	foreach(lc, kappa_catalog_list_versions(view->view))
		renew_hashes(lfirst(lc));
	values[0] = ObjectIdGetDatum(view->view);
	values[1] = Int64GetDatum((int64) GetSystemIdentifier());
	values[2] = ObjectIdGetDatum(MyDatabaseId);
	kappa_catalog_enter(&scope);
	if (SPI_execute_with_args("UPDATE kappa.view SET system_identifier = $2, database = $3"
							  " WHERE view = $1",
							  3, types, values, NULL, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not adopt a restored view");
	kappa_catalog_leave(&scope);
}
