/*-------------------------------------------------------------------------
 *
 * place.c
 *	  Find what is kept for the keys of a batch, and put what comes out of it there
 *
 * A companion remembers where the row of its key is in the view's table, so
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

bool
kappa_place_is_possible(Oid target, Oid companion)
{
	return kappa_keyed_is_possible(target) &&
		   (!OidIsValid(companion) || kappa_keyed_is_possible(companion));
}

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
	KappaKeyed *table;
	AttrNumber *columns; /* of the table: those of the key, and of the states */
	Tuplestorestate *store;
	TupleDesc type;
	Datum *values;
	bool *isnull;
} Finder;

/* Where the table that is searched has the key, and then the states. */
static AttrNumber *
get_columns(const KappaPlaces *places)
{
	int nkeys = list_length(places->key);
	AttrNumber *columns = palloc((nkeys + places->nstates) * sizeof(AttrNumber));
	int n = 0;
	ListCell *lc;

	if (OidIsValid(places->companion))
	{
		for (; n < nkeys + places->nstates; n++)
			columns[n] = n + 1;
		return columns;
	}
	foreach(lc, places->key)
		columns[n++] = get_target_column(places, lfirst_int(lc));
	foreach(lc, places->columns)
		if (!list_member_int(places->key, foreach_current_index(lc) + 1))
			columns[n++] = lfirst_int(lc);
	return columns;
}

/* The companion has the columns that it was made with. */
static void
check_companion(Relation rel, const KappaPlaces *places)
{
	int ncolumns = list_length(places->key) + places->nstates + 1;

	if (RelationGetNumberOfAttributes(rel) != ncolumns)
		report_altered(rel);
	check_column(rel, ncolumns, TIDOID);
}

/* Columns of the relation: those of a table, from attno on; returns the next one. */
static AttrNumber
copy_column(TupleDesc type, AttrNumber attno, Relation rel, AttrNumber column)
{
	if (column < 1)
		report_altered(rel);
	TupleDescCopyEntry(type, attno, RelationGetDescr(rel), column);
	return attno + 1;
}

static TupleDesc
make_found_type(const KappaPlaces *places)
{
	bool companion = OidIsValid(places->companion);
	Relation target = table_open(places->target, NoLock);
	Relation rel = companion ? table_open(places->companion, NoLock) : target;
	AttrNumber *columns = get_columns(places);
	int nkeys = list_length(places->key);
	int ncolumns = nkeys + places->nstates;
	AttrNumber attno = 1;
	TupleDesc type = CreateTemplateTupleDesc(ncolumns + list_length(places->others) +
											 places->changelog + list_length(places->old) +
											 companion + 1);
	ListCell *lc;

	if (companion)
		check_companion(rel, places);
	for (int i = 0; i < ncolumns; i++)
		attno = copy_column(type, attno, rel, columns[i]);
	foreach(lc, places->others)
		attno = copy_column(type, attno, target, get_target_column(places, lfirst_int(lc)));
	if (places->changelog)
		TupleDescInitEntry(type, attno++, KAPPA_COLUMN_KEEP, BOOLOID, -1, 0);
	foreach(lc, places->old)
	{
		int number = lfirst_int(lc);

		attno = copy_column(type, attno, rel, columns[nkeys + number - 1]);
		namestrcpy(&TupleDescAttr(type, attno - 2)->attname, psprintf(KAPPA_COLUMN_OLD, number));
	}
	if (companion)
		TupleDescInitEntry(type, attno++, KAPPA_COLUMN_STORED, TIDOID, -1, 0);
	TupleDescInitEntry(type, attno, KAPPA_COLUMN_SHOWN, TIDOID, -1, 0);
	if (companion)
		table_close(rel, NoLock);
	table_close(target, NoLock);
	return type;
}

EphemeralNamedRelation
kappa_place_make_relation(const KappaPlaces *places, const char *name)
{
	EphemeralNamedRelation relation = palloc0(sizeof(EphemeralNamedRelationData));

	relation->md.name = pstrdup(name);
	relation->md.reliddesc = InvalidOid;
	relation->md.tupdesc = make_found_type(places);
	relation->md.enrtype = ENR_NAMED_TUPLESTORE;
	relation->md.enrtuples = 1000;
	relation->reldata = tuplestore_begin_heap(false, false, work_mem);
	return relation;
}

/* Put what was found of a key into a row of the relation, from column n on. */
static void
add_found(Finder *finder, int n)
{
	TupleTableSlot *found = finder->table->found;
	int nkeys = list_length(finder->places.key);
	ListCell *lc;

	slot_getallattrs(found);
	foreach(lc, finder->places.old)
	{
		AttrNumber column = finder->columns[nkeys + lfirst_int(lc) - 1];

		finder->values[n] = found->tts_values[column - 1];
		finder->isnull[n++] = found->tts_isnull[column - 1];
	}
	finder->values[n] = PointerGetDatum(&found->tts_tid);
	finder->isnull[n++] = false;
	if (OidIsValid(finder->places.companion))
	{
		finder->values[n] = found->tts_values[nkeys + finder->places.nstates];
		finder->isnull[n] = found->tts_isnull[nkeys + finder->places.nstates];
	}

	/* Of keys that are equal and not the same, the first one stays. */
	for (int i = 0; i < nkeys; i++)
		finder->values[i] = found->tts_values[finder->columns[i] - 1];
}

static bool
find_row(TupleTableSlot *row, DestReceiver *self)
{
	Finder *finder = (Finder *) self;
	KappaKeyed *table = finder->table;
	int ncolumns = row->tts_tupleDescriptor->natts;
	ItemPointerData place;

	slot_getallattrs(row);
	memcpy(finder->values, row->tts_values, ncolumns * sizeof(Datum));
	memcpy(finder->isnull, row->tts_isnull, ncolumns * sizeof(bool));
	kappa_keyed_begin_row(table);
	for (int i = 0; i < list_length(finder->places.key); i++)
	{
		table->row->tts_values[finder->columns[i] - 1] = row->tts_values[i];
		table->row->tts_isnull[finder->columns[i] - 1] = row->tts_isnull[i];
	}
	ItemPointerSetInvalid(&place);
	if (kappa_keyed_find(table, &place))
		add_found(finder, ncolumns);
	else
		memset(finder->isnull + ncolumns, true, finder->type->natts - ncolumns);
	tuplestore_putvalues(finder->store, finder->type, finder->values, finder->isnull);
	return true;
}

static void
start_finder(DestReceiver *self, int operation, TupleDesc type)
{
	Finder *finder = (Finder *) self;
	const KappaPlaces *places = &finder->places;
	int ncolumns = list_length(places->key) + places->nstates;
	int natts = ncolumns + list_length(places->others) + places->changelog;

	if (type->natts != natts)
		elog(ERROR, "a delta has %d columns, not %d", type->natts, natts);
	finder->values = palloc0(finder->type->natts * sizeof(Datum));
	finder->isnull = palloc0(finder->type->natts * sizeof(bool));
	finder->columns = get_columns(places);
	finder->table = OidIsValid(places->companion) ? open_companion(places) : open_target(places);
	for (int i = 0; i < ncolumns; i++)
		check_column(finder->table->rel, finder->columns[i], TupleDescAttr(type, i)->atttypid);
}

static void
finish_finder(DestReceiver *self)
{
	kappa_keyed_close(((Finder *) self)->table);
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
	finder->type = relation->md.tupdesc;
	finder->store = relation->reldata;
	return &finder->pub;
}

/* ---- writing ---- */

typedef struct Writer
{
	DestReceiver pub;
	KappaPlaces places;
	KappaKeyed *target;
	KappaKeyed *companion; /* or NULL */
} Writer;

/*
 * Find the row of a key.  A companion has only said where it probably is, and
 * its key may be written otherwise.
 */
static bool
find_shown(Writer *writer, ItemPointer place)
{
	KappaKeyed *target = writer->target;
	ListCell *lc;

	if (writer->companion == NULL)
		return ItemPointerIsValid(place);
	if (!kappa_keyed_find(target, place))
		return false;
	foreach(lc, writer->places.key)
	{
		AttrNumber column = get_target_column(&writer->places, lfirst_int(lc));
		bool *isnull = &target->row->tts_isnull[column - 1];

		target->row->tts_values[column - 1] = slot_getattr(target->found, column, isnull);
	}
	return true;
}

/* Bring the view's table to a row, and say where it is. */
static void
write_row(Writer *writer, TupleTableSlot *row, bool keep, ItemPointer place)
{
	KappaKeyed *target = writer->target;
	Datum *values = target->row->tts_values;
	bool *isnull = target->row->tts_isnull;
	ItemPointerData tid;
	ListCell *lc;
	bool found;

	kappa_keyed_begin_row(target);
	memset(isnull, true, target->row->tts_tupleDescriptor->natts * sizeof(bool));
	foreach(lc, writer->places.columns)
	{
		values[lfirst_int(lc) - 1] = row->tts_values[foreach_current_index(lc)];
		isnull[lfirst_int(lc) - 1] = row->tts_isnull[foreach_current_index(lc)];
	}
	found = find_shown(writer, place);
	tid = writer->companion != NULL ? target->found->tts_tid : *place;
	if (!keep)
	{
		if (found)
			kappa_keyed_delete(target, &tid);
		ItemPointerSetInvalid(place);
		return;
	}
	kappa_keyed_end_row(target);
	if (found)
		kappa_keyed_update(target, &tid, place);
	else
		kappa_keyed_insert(target, place);
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
	place = get_tid(row, natts - 1);
	write_row(writer, row, DatumGetBool(row->tts_values[natts - 1]), &place);
	if (writer->companion != NULL)
	{
		stored = get_tid(row, natts - 2);
		write_states(writer, row, &stored, &place);
	}
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
	if (writer->companion == NULL)
		return;
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
	const KappaPlaces *places = &writer->places;
	int natts = list_length(places->columns) + 2;

	if (OidIsValid(places->companion))
		natts += places->nstates + 1;
	if (type->natts != natts)
		elog(ERROR, "a merge has %d columns, not %d", type->natts, natts);
	writer->target = open_target(places);
	writer->companion = OidIsValid(places->companion) ? open_companion(places) : NULL;
	check_types(writer, type);
}

static void
finish_writer(DestReceiver *self)
{
	Writer *writer = (Writer *) self;

	if (writer->companion != NULL)
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
