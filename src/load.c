/*-------------------------------------------------------------------------
 *
 * load.c
 *	  Load rows into the empty tables of a view
 *
 * Where nothing is there, nothing has to be looked up: rows are written many at
 * a time, and indexes built when all are there.  Building an index takes a lock
 * that readers of the table would wait for.  So where there may be some, each
 * row is entered; in the order of the key, in which the rows should come, an
 * index grows at its end.
 *
 * IDENTIFICATION
 *	  src/load.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/index.h"
#include "storage/itemptr.h"

#include "append.h"
#include "compat.h"
#include "load.h"
#include "view_delta.h"

/* A row of the view's table that was added, and who is to be told where it gets. */
typedef struct LoadedPlace
{
	TupleTableSlot *row;
	ItemPointer shown; /* inside the companion's row */
} LoadedPlace;

typedef struct Loader
{
	DestReceiver pub;
	Oid target_id;
	Oid companion_id;
	bool read;

	/* While the query runs. */
	KappaAppend *target;
	KappaAppend *companion; /* NULL if there is none */
	AttrNumber keep;        /* column of the rows; 0: there is none */
	LoadedPlace places[KAPPA_APPEND_MAX_ROWS];
	int nplaces;
} Loader;

static AttrNumber
find_column(TupleDesc columns, const char *name)
{
	for (int i = 0; i < columns->natts; i++)
		if (strcmp(NameStr(TupleDescAttr(columns, i)->attname), name) == 0)
			return i + 1;
	return InvalidAttrNumber;
}

/* The view's rows first: then it is known where they are. */
static void
write_rows(Loader *loader)
{
	kappa_append_write(loader->target);
	for (int i = 0; i < loader->nplaces; i++)
		*loader->places[i].shown = loader->places[i].row->tts_tid;
	loader->nplaces = 0;
	if (loader->companion != NULL)
	{
		kappa_append_write(loader->companion);
		kappa_append_clear(loader->companion);
	}
	kappa_append_clear(loader->target);
}

static bool
is_kept(const Loader *loader, TupleTableSlot *row)
{
	bool isnull;

	return loader->keep == InvalidAttrNumber ||
		   DatumGetBool(slot_getattr(row, loader->keep, &isnull));
}

/* row: in the view's table; NULL if it is not shown. */
static void
add_to_companion(Loader *loader, TupleTableSlot *rows, TupleTableSlot *row)
{
	TupleTableSlot *states = kappa_append_add(loader->companion, rows);
	AttrNumber column = find_column(states->tts_tupleDescriptor, KAPPA_COLUMN_SHOWN);
	LoadedPlace *place = &loader->places[loader->nplaces];
	bool isnull;

	if (row == NULL || column == InvalidAttrNumber)
		return;
	place->row = row;
	place->shown = (ItemPointer) DatumGetPointer(slot_getattr(states, column, &isnull));
	loader->nplaces++;
}

static bool
receive_row(TupleTableSlot *row, DestReceiver *self)
{
	Loader *loader = (Loader *) self;
	TupleTableSlot *shown = NULL;

	if (is_kept(loader, row))
		shown = kappa_append_add(loader->target, row);
	if (loader->companion != NULL)
		add_to_companion(loader, row, shown);
	if (kappa_append_is_full(loader->target) ||
		(loader->companion != NULL && kappa_append_is_full(loader->companion)))
		write_rows(loader);
	return true;
}

static void
start_loader(DestReceiver *self, int operation, TupleDesc type)
{
	Loader *loader = (Loader *) self;

	loader->target = kappa_append_open(loader->target_id, type, loader->read);
	if (OidIsValid(loader->companion_id))
		loader->companion = kappa_append_open(loader->companion_id, type, false);
	loader->keep = find_column(type, KAPPA_COLUMN_KEEP);
}

static void
build_indexes(Oid relid)
{
	ReindexParams params = { 0 };

	(void) kappa_reindex_relation(relid, REINDEX_REL_CHECK_CONSTRAINTS, &params);
}

static void
finish_loader(DestReceiver *self)
{
	Loader *loader = (Loader *) self;

	write_rows(loader);
	kappa_append_close(loader->target);
	if (loader->companion != NULL)
		kappa_append_close(loader->companion);
	if (!loader->read)
		build_indexes(loader->target_id);
	if (OidIsValid(loader->companion_id))
		build_indexes(loader->companion_id);
}

static void
destroy_loader(DestReceiver *self)
{
	pfree(self);
}

DestReceiver *
kappa_load_create_receiver(Oid target, Oid companion, bool read)
{
	Loader *loader = palloc0(sizeof(Loader));

	loader->pub.receiveSlot = receive_row;
	loader->pub.rStartup = start_loader;
	loader->pub.rShutdown = finish_loader;
	loader->pub.rDestroy = destroy_loader;
	loader->pub.mydest = DestNone;
	loader->target_id = target;
	loader->companion_id = companion;
	loader->read = read;
	return &loader->pub;
}
