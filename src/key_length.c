/*-------------------------------------------------------------------------
 *
 * key_length.c
 *	  Can the rows of a delta be found by the index of a view's key?
 *
 * A btree index takes no entry larger than a third of a page.  A message whose
 * key is longer cannot be merged, and it is the message's fault: nobody can do
 * anything about it but the producer.  Looked for here, it is an error of the
 * delta like any other, and found like any other.
 *
 * IDENTIFICATION
 *	  src/key_length.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/itup.h"
#include "access/nbtree.h"
#include "access/table.h"
#include "executor/executor.h"
#include "storage/bufpage.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/relcache.h"

#include "key_length.h"
#include "keyed.h"

typedef struct LengthReceiver
{
	DestReceiver pub;
	Oid target;
	List *key; /* of C strings */

	/* From startup on. */
	Relation rel;
	Relation index;        /* NULL if no key can be too long */
	AttrNumber *attnums;   /* of the delta, by column of the index */
	Page page;             /* an empty one, which sets the limit */
	MemoryContext context; /* reset for each row */
} LengthReceiver;

/* Entries of values that have a fixed length always fit. */
static bool
can_be_long(Relation index)
{
	for (int i = 0; i < IndexRelationGetNumberOfKeyAttributes(index); i++)
		if (TupleDescAttr(RelationGetDescr(index), i)->attlen < 0)
			return true;
	return false;
}

static Relation
open_key_index(LengthReceiver *receiver)
{
	Bitmapset *key = NULL;
	ListCell *lc;

	foreach(lc, receiver->key)
		key = bms_add_member(key, get_attnum(receiver->target, lfirst(lc)));
	foreach(lc, RelationGetIndexList(receiver->rel))
	{
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);

		if (kappa_keyed_is_key_index(receiver->rel, index, key) && can_be_long(index))
			return index;
		index_close(index, AccessShareLock);
	}
	return NULL;
}

static AttrNumber
find_column(TupleDesc delta, const char *name)
{
	for (int i = 0; i < delta->natts; i++)
		if (strcmp(NameStr(TupleDescAttr(delta, i)->attname), name) == 0)
			return i + 1;
	elog(ERROR, "column \"%s\" of the key is not one of the delta", name);
	return InvalidAttrNumber;
}

static Page
make_leaf_page(void)
{
	Page page = palloc0(BLCKSZ);

	PageInit(page, BLCKSZ, sizeof(BTPageOpaqueData));
	((BTPageOpaque) PageGetSpecialPointer(page))->btpo_flags = BTP_LEAF;
	return page;
}

static void
start_receiver(DestReceiver *self, int operation, TupleDesc type)
{
	LengthReceiver *receiver = (LengthReceiver *) self;
	int n;

	receiver->rel = table_open(receiver->target, NoLock);
	receiver->index = open_key_index(receiver);
	if (receiver->index == NULL)
		return;
	n = IndexRelationGetNumberOfKeyAttributes(receiver->index);
	receiver->attnums = palloc(n * sizeof(AttrNumber));
	for (int i = 0; i < n; i++)
	{
		AttrNumber attnum = receiver->index->rd_index->indkey.values[i];

		receiver->attnums[i] = find_column(type, get_attname(receiver->target, attnum, false));
	}
	receiver->page = make_leaf_page();
	receiver->context = AllocSetContextCreate(CurrentMemoryContext, "kappa key length",
											  ALLOCSET_DEFAULT_SIZES);
}

/* Make the entry that an insertion would, and let the index say what it thinks of it. */
static void
check_row(LengthReceiver *receiver, TupleTableSlot *row)
{
	int n = IndexRelationGetNumberOfKeyAttributes(receiver->index);
	Datum values[INDEX_MAX_KEYS];
	bool isnull[INDEX_MAX_KEYS];
	IndexTuple entry;

	for (int i = 0; i < n; i++)
		values[i] = slot_getattr(row, receiver->attnums[i], &isnull[i]);
	entry = index_form_tuple(RelationGetDescr(receiver->index), values, isnull);
	ItemPointerSet(&entry->t_tid, 0, FirstOffsetNumber); /* the error names it */
	_bt_check_third_page(receiver->index, receiver->rel, true, receiver->page, entry);
}

static bool
receive_row(TupleTableSlot *row, DestReceiver *self)
{
	LengthReceiver *receiver = (LengthReceiver *) self;
	MemoryContext old;

	if (receiver->index == NULL)
		return true;
	old = MemoryContextSwitchTo(receiver->context);
	check_row(receiver, row);
	MemoryContextSwitchTo(old);
	MemoryContextReset(receiver->context);
	return true;
}

static void
finish_receiver(DestReceiver *self)
{
	LengthReceiver *receiver = (LengthReceiver *) self;

	if (receiver->index != NULL)
	{
		index_close(receiver->index, NoLock);
		MemoryContextDelete(receiver->context);
	}
	table_close(receiver->rel, NoLock);
}

static void
destroy_receiver(DestReceiver *self)
{
	pfree(self);
}

DestReceiver *
kappa_key_length_create_receiver(Oid target, List *key)
{
	LengthReceiver *receiver = palloc0(sizeof(LengthReceiver));

	receiver->pub.receiveSlot = receive_row;
	receiver->pub.rStartup = start_receiver;
	receiver->pub.rShutdown = finish_receiver;
	receiver->pub.rDestroy = destroy_receiver;
	receiver->pub.mydest = DestNone;
	receiver->target = target;
	receiver->key = key;
	return &receiver->pub;
}
