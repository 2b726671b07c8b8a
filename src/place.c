/*-------------------------------------------------------------------------
 *
 * place.c
 *	  Find what is kept for the keys of a batch, and put what comes out of it there
 *
 * The companion remembers where the row of its key is in the view's table, so
 * that only one of them is searched.  A row stays in its place while there is
 * room for its next version in the page, and the key that is found there is
 * compared: after VACUUM FULL, say, the index is asked again.
 *
 * IDENTIFICATION
 *	  src/place.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/itemptr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/tuplestore.h"

#include "kappa.h"
#include "keyed.h"
#include "place.h"
#include "view_delta.h"

static ItemPointerData
get_tid(TupleTableSlot *row, int attno)
{
	ItemPointerData tid;

	if (row->tts_isnull[attno - 1])
		ItemPointerSetInvalid(&tid);
	else
		tid = *(ItemPointer) DatumGetPointer(row->tts_values[attno - 1]);
	return tid;
}

/*
 * Values go from one row into another as they are, so their types must be the
 * same, but for domains, whose values are those of the type below.  The tables
 * in kappa_state are their owner's, who may have altered one.
 */
static void
report_altered(Relation rel)
{
	ereport(ERROR,
			(errcode(ERRCODE_KAPPA_STOP),
			 errmsg("columns of table \"%s\" are not what they were when the view was made",
					RelationGetRelationName(rel)),
			 errhint("Build the view anew with kappa.rebuild().")));
}

static void
check_column(Relation rel, AttrNumber attno, Oid type)
{
	TupleDesc columns = RelationGetDescr(rel);

	if (attno < 1 || attno > columns->natts ||
		TupleDescAttr(columns, attno - 1)->attisdropped ||
		getBaseType(TupleDescAttr(columns, attno - 1)->atttypid) != getBaseType(type))
		report_altered(rel);
}

static KappaKeyed *
open_companion(const KappaPlaces *places)
{
	Bitmapset *key = NULL;

	for (int i = 1; i <= list_length(places->key); i++)
		key = bms_add_member(key, i);
	return kappa_keyed_open(places->companion, key);
}

/* The column of the view's table that has an output of the query. */
static AttrNumber
get_target_column(const KappaPlaces *places, int output)
{
	return list_nth_int(places->columns, output - 1);
}

static KappaKeyed *
open_target(const KappaPlaces *places)
{
	Bitmapset *key = NULL;
	ListCell *lc;

	foreach(lc, places->key)
		key = bms_add_member(key, get_target_column(places, lfirst_int(lc)));
	return kappa_keyed_open(places->target, key);
}

/* ---- finding ---- */

typedef struct Finder
{
	DestReceiver pub;
	KappaPlaces places;
	KappaKeyed *companion;
	Tuplestorestate *store;
	TupleDesc columns;
	Datum *values;
	bool *isnull;
} Finder;

/* The companion's columns, those of states twice, and where both rows are. */
static TupleDesc
make_found_columns(const KappaPlaces *places)
{
	Relation rel = table_open(places->companion, NoLock);
	int nkeys = list_length(places->key);
	int nstates = places->nstates;
	TupleDesc columns = CreateTemplateTupleDesc(nkeys + 2 * nstates + 2);

	if (RelationGetNumberOfAttributes(rel) != nkeys + nstates + 1)
		report_altered(rel);
	check_column(rel, nkeys + nstates + 1, TIDOID);
	for (int i = 1; i <= nkeys + nstates; i++)
		TupleDescCopyEntry(columns, i, RelationGetDescr(rel), i);
	for (int i = 1; i <= nstates; i++)
	{
		AttrNumber attno = nkeys + nstates + i;

		TupleDescCopyEntry(columns, attno, RelationGetDescr(rel), nkeys + i);
		namestrcpy(&TupleDescAttr(columns, attno - 1)->attname,
				   psprintf(KAPPA_COLUMN_OLD, i));
	}
	TupleDescInitEntry(columns, columns->natts - 1, KAPPA_COLUMN_STORED, TIDOID, -1, 0);
	TupleDescInitEntry(columns, columns->natts, KAPPA_COLUMN_SHOWN, TIDOID, -1, 0);
	table_close(rel, NoLock);
	return columns;
}

EphemeralNamedRelation
kappa_place_make_relation(const KappaPlaces *places, const char *name)
{
	EphemeralNamedRelation relation = palloc0(sizeof(EphemeralNamedRelationData));

	relation->md.name = pstrdup(name);
	relation->md.reliddesc = InvalidOid;
	relation->md.tupdesc = make_found_columns(places);
	relation->md.enrtype = ENR_NAMED_TUPLESTORE;
	relation->md.enrtuples = 1000;
	relation->reldata = tuplestore_begin_heap(false, false, work_mem);
	return relation;
}

/* Put what the companion has of a key into a row of the relation. */
static void
add_found(Finder *finder)
{
	TupleTableSlot *found = finder->companion->found;
	int nkeys = list_length(finder->places.key);
	int nstates = finder->places.nstates;
	Datum *values = finder->values + nkeys + nstates;
	bool *isnull = finder->isnull + nkeys + nstates;

	slot_getallattrs(found);
	memcpy(values, found->tts_values + nkeys, nstates * sizeof(Datum));
	memcpy(isnull, found->tts_isnull + nkeys, nstates * sizeof(bool));
	values[nstates] = PointerGetDatum(&found->tts_tid);
	isnull[nstates] = false;
	values[nstates + 1] = found->tts_values[nkeys + nstates];
	isnull[nstates + 1] = found->tts_isnull[nkeys + nstates];

	/* Of keys that are equal and not the same, the first one stays. */
	memcpy(finder->values, found->tts_values, nkeys * sizeof(Datum));
}

static bool
find_row(TupleTableSlot *row, DestReceiver *self)
{
	Finder *finder = (Finder *) self;
	KappaKeyed *companion = finder->companion;
	int nkeys = list_length(finder->places.key);
	int ncolumns = nkeys + finder->places.nstates;
	ItemPointerData place;

	slot_getallattrs(row);
	memcpy(finder->values, row->tts_values, ncolumns * sizeof(Datum));
	memcpy(finder->isnull, row->tts_isnull, ncolumns * sizeof(bool));
	kappa_keyed_begin_row(companion);
	memcpy(companion->row->tts_values, row->tts_values, nkeys * sizeof(Datum));
	memcpy(companion->row->tts_isnull, row->tts_isnull, nkeys * sizeof(bool));
	ItemPointerSetInvalid(&place);
	if (kappa_keyed_find(companion, &place))
		add_found(finder);
	else
		memset(finder->isnull + ncolumns, true, finder->columns->natts - ncolumns);
	tuplestore_putvalues(finder->store, finder->columns, finder->values, finder->isnull);
	return true;
}

static void
start_finder(DestReceiver *self, int operation, TupleDesc type)
{
	Finder *finder = (Finder *) self;
	int ncolumns = finder->columns->natts;

	if (type->natts != list_length(finder->places.key) + finder->places.nstates)
		elog(ERROR, "a delta has %d columns, not %d", type->natts,
			 list_length(finder->places.key) + finder->places.nstates);
	finder->values = palloc0(ncolumns * sizeof(Datum));
	finder->isnull = palloc0(ncolumns * sizeof(bool));
	finder->companion = open_companion(&finder->places);
	for (int i = 0; i < type->natts; i++)
		check_column(finder->companion->rel, i + 1, TupleDescAttr(type, i)->atttypid);
}

static void
finish_finder(DestReceiver *self)
{
	kappa_keyed_close(((Finder *) self)->companion);
}

static void
destroy_receiver(DestReceiver *self)
{
	pfree(self);
}

DestReceiver *
kappa_place_create_finder(const KappaPlaces *places, EphemeralNamedRelation relation)
{
	Finder *finder = palloc0(sizeof(Finder));

	finder->pub.receiveSlot = find_row;
	finder->pub.rStartup = start_finder;
	finder->pub.rShutdown = finish_finder;
	finder->pub.rDestroy = destroy_receiver;
	finder->pub.mydest = DestNone;
	finder->places = *places;
	finder->columns = relation->md.tupdesc;
	finder->store = relation->reldata;
	return &finder->pub;
}

/* ---- writing ---- */

typedef struct Writer
{
	DestReceiver pub;
	KappaPlaces places;
	KappaKeyed *target;
	KappaKeyed *companion;
} Writer;

/* Bring the view's table to a row, and say where it is. */
static void
write_row(Writer *writer, TupleTableSlot *row, bool keep, ItemPointer place)
{
	KappaKeyed *target = writer->target;
	Datum *values = target->row->tts_values;
	bool *isnull = target->row->tts_isnull;
	ListCell *lc;
	bool found;

	kappa_keyed_begin_row(target);
	memset(isnull, true, target->row->tts_tupleDescriptor->natts * sizeof(bool));
	foreach(lc, writer->places.columns)
	{
		values[lfirst_int(lc) - 1] = row->tts_values[foreach_current_index(lc)];
		isnull[lfirst_int(lc) - 1] = row->tts_isnull[foreach_current_index(lc)];
	}
	found = kappa_keyed_find(target, place);
	if (!keep)
	{
		if (found)
			kappa_keyed_delete(target, &target->found->tts_tid);
		ItemPointerSetInvalid(place);
		return;
	}
	if (!found)
	{
		kappa_keyed_end_row(target);
		kappa_keyed_insert(target, place);
		return;
	}
	foreach(lc, writer->places.key)
	{
		AttrNumber column = get_target_column(&writer->places, lfirst_int(lc));

		values[column - 1] = slot_getattr(target->found, column, &isnull[column - 1]);
	}
	kappa_keyed_end_row(target);
	kappa_keyed_update(target, &target->found->tts_tid, place);
}

/* Likewise the companion. */
static void
write_states(Writer *writer, TupleTableSlot *row, ItemPointer stored, ItemPointer place)
{
	KappaKeyed *companion = writer->companion;
	Datum *values = companion->row->tts_values;
	bool *isnull = companion->row->tts_isnull;
	int nkeys = list_length(writer->places.key);
	int noutputs = list_length(writer->places.columns);
	int nstates = writer->places.nstates;
	ItemPointerData ignored;
	ListCell *lc;

	kappa_keyed_begin_row(companion);
	foreach(lc, writer->places.key)
	{
		values[foreach_current_index(lc)] = row->tts_values[lfirst_int(lc) - 1];
		isnull[foreach_current_index(lc)] = row->tts_isnull[lfirst_int(lc) - 1];
	}
	memcpy(values + nkeys, row->tts_values + noutputs, nstates * sizeof(Datum));
	memcpy(isnull + nkeys, row->tts_isnull + noutputs, nstates * sizeof(bool));
	values[nkeys + nstates] = PointerGetDatum(place);
	isnull[nkeys + nstates] = !ItemPointerIsValid(place);
	kappa_keyed_end_row(companion);
	if (ItemPointerIsValid(stored))
		kappa_keyed_update(companion, stored, &ignored);
	else
		kappa_keyed_insert(companion, &ignored);
}

static bool
receive_row(TupleTableSlot *row, DestReceiver *self)
{
	Writer *writer = (Writer *) self;
	int natts = row->tts_tupleDescriptor->natts;
	ItemPointerData stored;
	ItemPointerData place;

	slot_getallattrs(row);
	stored = get_tid(row, natts - 2);
	place = get_tid(row, natts - 1);
	write_row(writer, row, DatumGetBool(row->tts_values[natts - 1]), &place);
	write_states(writer, row, &stored, &place);
	return true;
}

/* Of the columns that a merge has before the places of rows. */
static void
check_types(const Writer *writer, TupleDesc type)
{
	int nkeys = list_length(writer->places.key);
	int noutputs = list_length(writer->places.columns);
	ListCell *lc;

	for (int i = 0; i < noutputs; i++)
		check_column(writer->target->rel, get_target_column(&writer->places, i + 1),
					 TupleDescAttr(type, i)->atttypid);
	foreach(lc, writer->places.key)
		check_column(writer->companion->rel, foreach_current_index(lc) + 1,
					 TupleDescAttr(type, lfirst_int(lc) - 1)->atttypid);
	for (int i = 0; i < writer->places.nstates; i++)
		check_column(writer->companion->rel, nkeys + i + 1,
					 TupleDescAttr(type, noutputs + i)->atttypid);
}

static void
start_writer(DestReceiver *self, int operation, TupleDesc type)
{
	Writer *writer = (Writer *) self;

	if (type->natts != list_length(writer->places.columns) + writer->places.nstates + 3)
		elog(ERROR, "a merge has %d columns, not %d", type->natts,
			 list_length(writer->places.columns) + writer->places.nstates + 3);
	writer->target = open_target(&writer->places);
	writer->companion = open_companion(&writer->places);
	check_types(writer, type);
}

static void
finish_writer(DestReceiver *self)
{
	Writer *writer = (Writer *) self;

	kappa_keyed_close(writer->companion);
	kappa_keyed_close(writer->target);
}

DestReceiver *
kappa_place_create_writer(const KappaPlaces *places)
{
	Writer *writer = palloc0(sizeof(Writer));

	writer->pub.receiveSlot = receive_row;
	writer->pub.rStartup = start_writer;
	writer->pub.rShutdown = finish_writer;
	writer->pub.rDestroy = destroy_receiver;
	writer->pub.mydest = DestNone;
	writer->places = *places;
	return &writer->pub;
}
