/*-------------------------------------------------------------------------
 *
 * batch.c
 *	  Messages in memory, decoded once for all views that read them
 *
 * Decoding happens when a scan first reaches a message, so that the values
 * are still in the processor's cache when the executor takes them, and a
 * second view's scan finds them ready.  What a type's input function has to
 * finish (KAPPA_CELL_DEFERRED) is finished by each reader for itself, under
 * its own role.
 *
 * IDENTIFICATION
 *	  src/batch.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "port/pg_bitutils.h"
#include "storage/itemptr.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

#include "batch.h"
#include "fdw_bounds.h"

typedef enum RowState
{
	ROW_UNREAD = 0,
	ROW_DECODED,
	ROW_MALFORMED,
} RowState;

/* One key column of a changelog, with what is needed to compare it. */
typedef struct BatchKey
{
	int cell;
	int16 typlen;
	bool typbyval;
	Oid collation;
	FmgrInfo hash;
	FmgrInfo equal;
} BatchKey;

struct KappaBatchTable
{
	const KappaTable *table;
	KappaDecoder *decoder;
	int ncells;
	int nkeys; /* 0 unless a changelog */
	BatchKey *keys;

	/* The batch; arrays in its context. */
	KappaBatch *batch;
	uint8 *rows;               /* RowState by message */
	Datum *values;             /* ncells for each message */
	uint8 *states;             /* likewise, KappaCellState */
	KappaMalformed *malformed; /* by message; NULL until there is one */

	/* The binding. */
	KappaBatchTable *next_bound;
	const int64 *next_offset;
	int npartitions;
	KappaBatchPart part;
};

struct KappaBatchCursor
{
	KappaBatchTable *bt;
	int ncolumns;
	AttrNumber *attnums;
	int *cells;
	int position;  /* next element of selected, or next message */
	int nselected; /* changelog only */
	int *selected;
};

/* Tables bound in this process; a handful at most. */
static KappaBatchTable *bound_tables = NULL;
static int current_message = -1;
static bool reading_message = false; /* current_message is being decoded or converted */

/* ---- tables and bindings ---- */

/* Look up how to hash and compare the key columns of a changelog. */
static void
prepare_keys(KappaBatchTable *bt)
{
	const KappaTable *table = bt->table;

	bt->keys = palloc0(table->ncolumns * sizeof(BatchKey));
	for (int i = 0; i < table->ncolumns; i++)
	{
		const KappaColumn *column = &table->columns[i];
		TypeCacheEntry *type;
		BatchKey *key;

		if (column->source == KAPPA_SOURCE_DROPPED || !column->key)
			continue;

		type = lookup_type_cache(column->type,
								 TYPECACHE_HASH_PROC | TYPECACHE_EQ_OPR);
		if (!OidIsValid(type->hash_proc) || !OidIsValid(type->eq_opr))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_FUNCTION),
					 errmsg("key column \"%s\" of foreign table \"%s\" has a type that cannot be hashed",
							column->name, table->name)));
		key = &bt->keys[bt->nkeys++];
		key->cell = kappa_decoder_cell(bt->decoder, column->attnum);
		key->typlen = type->typlen;
		key->typbyval = type->typbyval;
		key->collation = get_typcollation(column->type);
		fmgr_info(type->hash_proc, &key->hash);
		fmgr_info(get_opcode(type->eq_opr), &key->equal);
	}
}

/* A changelog's key columns are always decoded: rows are found by them. */
static Bitmapset *
add_key_columns(const KappaTable *table, Bitmapset *columns)
{
	Bitmapset *result = bms_copy(columns);

	for (int i = 0; i < table->ncolumns; i++)
		if (table->columns[i].source != KAPPA_SOURCE_DROPPED &&
			table->columns[i].key)
			result = bms_add_member(result, table->columns[i].attnum);
	return result;
}

KappaBatchTable *
kappa_batch_table_create(const KappaTable *table, Bitmapset *columns)
{
	KappaBatchTable *bt = palloc0(sizeof(KappaBatchTable));

	bt->table = table;
	bt->decoder = kappa_decoder_create(table, add_key_columns(table, columns));
	bt->ncells = kappa_decoder_ncells(bt->decoder);
	if (table->changelog)
		prepare_keys(bt);
	return bt;
}

void
kappa_batch_table_load(KappaBatchTable *bt, KappaBatch *batch)
{
	Size ncells = (Size) batch->nmessages * bt->ncells;
	MemoryContext old = MemoryContextSwitchTo(batch->context);

	bt->batch = batch;
	bt->rows = palloc0(Max(batch->nmessages, 1));
	bt->values = MemoryContextAllocHuge(batch->context,
										Max(ncells, 1) * sizeof(Datum));
	bt->states = MemoryContextAllocHuge(batch->context, Max(ncells, 1));
	bt->malformed = NULL;
	MemoryContextSwitchTo(old);
}

/* An abort ends all bindings: the batch may be freed next. */
static void
unbind_at_abort(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT)
		kappa_batch_unbind_all();
}

void
kappa_batch_bind(KappaBatchTable *bt, const int64 *next_offset,
				 int npartitions, const KappaBatchPart *part)
{
	static bool registered = false;

	if (!registered)
	{
		RegisterXactCallback(unbind_at_abort, NULL);
		registered = true;
	}

	Assert(bt->batch != NULL);
	Assert(0 <= part->first && part->first <= part->last &&
		   part->last <= bt->batch->nmessages);
	bt->next_offset = next_offset;
	bt->npartitions = npartitions;
	bt->part = *part;
	current_message = -1;
	reading_message = false;
	bt->next_bound = bound_tables;
	bound_tables = bt;
}

void
kappa_batch_unbind_all(void)
{
	bound_tables = NULL;
}

static KappaBatchTable *
find_bound(Oid relid)
{
	for (KappaBatchTable *bt = bound_tables; bt != NULL; bt = bt->next_bound)
		if (bt->table->relid == relid)
			return bt;
	return NULL;
}

static KappaBatchTable *
get_bound(Oid relid)
{
	KappaBatchTable *bt = find_bound(relid);

	if (bt == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("no batch of foreign table \"%s\" is being applied",
						get_rel_name(relid)),
				 errhint("The table alias \"kappa batch\" is reserved for the maintenance of views.")));
	return bt;
}

double
kappa_batch_bound_rows(Oid relid)
{
	KappaBatchTable *bt = find_bound(relid);

	return bt == NULL ? -1 : bt->part.last - bt->part.first;
}

int
kappa_batch_current(bool *reading)
{
	*reading = reading_message;
	return current_message;
}

/* ---- rows ---- */

static inline bool
is_wanted(const KappaBatchTable *bt, int i)
{
	const KappaMessage *message = &bt->batch->messages[i];

	if (unlikely(bt->part.excluded != NULL) && bms_is_member(i, bt->part.excluded))
		return false;
	return bt->part.again || message->partition >= bt->npartitions ||
		   message->offset >= bt->next_offset[message->partition];
}

static void
decode_row(KappaBatchTable *bt, int i)
{
	MemoryContext old = MemoryContextSwitchTo(bt->batch->context);
	KappaMalformed malformed;

	if (kappa_decode_message(bt->decoder, &bt->batch->messages[i],
							 bt->values + (Size) i * bt->ncells,
							 bt->states + (Size) i * bt->ncells, &malformed))
		bt->rows[i] = ROW_DECODED;
	else
	{
		if (bt->malformed == NULL)
			bt->malformed = palloc(bt->batch->nmessages * sizeof(KappaMalformed));
		bt->malformed[i] = malformed;
		bt->rows[i] = ROW_MALFORMED;
	}
	MemoryContextSwitchTo(old);
}

/* Make sure that a message is a row; throws its data error if it is none. */
static inline void
require_row(KappaBatchTable *bt, int i)
{
	current_message = i;
	reading_message = true;
	if (bt->rows[i] == ROW_UNREAD)
		decode_row(bt, i);
	if (unlikely(bt->rows[i] == ROW_MALFORMED))
		kappa_decode_report_malformed(bt->decoder, &bt->batch->messages[i],
									  &bt->malformed[i]);
}

/* ---- the last message of each key ---- */

/*
 * The key columns of a row, complete.  A key that has to be converted by an
 * input function is converted once and kept.
 */
static void
finish_key(KappaBatchTable *bt, int i)
{
	const KappaMessage *message = &bt->batch->messages[i];
	Datum *values = bt->values + (Size) i * bt->ncells;
	uint8 *states = bt->states + (Size) i * bt->ncells;

	for (int k = 0; k < bt->nkeys; k++)
	{
		int cell = bt->keys[k].cell;
		bool isnull;

		if (states[cell] == KAPPA_CELL_DEFERRED)
		{
			MemoryContext old = MemoryContextSwitchTo(bt->batch->context);

			values[cell] = kappa_decode_cell(bt->decoder, cell, message,
											 values[cell], states[cell], &isnull);
			states[cell] = isnull ? KAPPA_CELL_NULL : KAPPA_CELL_VALUE;
			MemoryContextSwitchTo(old);
		}
		if (states[cell] == KAPPA_CELL_NULL)
			ereport(ERROR,
					(errcode(ERRCODE_NOT_NULL_VIOLATION),
					 errmsg("message has no key"),
					 errdetail("Foreign table \"%s\" is a changelog: every message of topic \"%s\" needs a key; the one at offset " INT64_FORMAT " of partition %d has none.",
							   bt->table->name, bt->table->topic,
							   message->offset, message->partition)));
	}
}

static uint32
hash_key(KappaBatchTable *bt, int i)
{
	const Datum *values = bt->values + (Size) i * bt->ncells;
	uint32 hash = 0;

	for (int k = 0; k < bt->nkeys; k++)
	{
		BatchKey *key = &bt->keys[k];
		Datum h = FunctionCall1Coll(&key->hash, key->collation, values[key->cell]);

		hash = hash_combine(hash, murmurhash32(DatumGetUInt32(h)));
	}
	return hash;
}

static bool
keys_equal(KappaBatchTable *bt, int i, int j)
{
	const Datum *a = bt->values + (Size) i * bt->ncells;
	const Datum *b = bt->values + (Size) j * bt->ncells;

	for (int k = 0; k < bt->nkeys; k++)
	{
		BatchKey *key = &bt->keys[k];

		if (!DatumGetBool(FunctionCall2Coll(&key->equal, key->collation,
											a[key->cell], b[key->cell])))
			return false;
	}
	return true;
}

/* The place of a message's key in a table of places in the batch; free if it holds -1. */
static uint32
find_slot(KappaBatchTable *bt, const int *table, uint32 size, int i)
{
	uint32 slot = hash_key(bt, i) & (size - 1);

	while (table[slot] >= 0 && !keys_equal(bt, table[slot], i))
		slot = (slot + 1) & (size - 1);
	return slot;
}

int
kappa_batch_find_later(KappaBatchTable *bt, int n, const Bitmapset *excluded, int *found)
{
	uint32 size = pg_nextpower2_32(Max(2 * n, 16));
	int *table = palloc(size * sizeof(int));
	int *later = palloc(Max(n, 1) * sizeof(int)); /* by the first message of the key */
	int nfound = 0;

	memset(table, -1, size * sizeof(int));
	memset(later, -1, n * sizeof(int));
	for (int i = 0; i < bt->batch->nmessages; i++)
	{
		uint32 slot;

		if (bms_is_member(i, excluded))
			continue;
		require_row(bt, i);
		finish_key(bt, i);
		slot = find_slot(bt, table, size, i);
		if (table[slot] < 0 && i < n)
			table[slot] = i;
		else if (table[slot] >= 0 && i >= n)
			later[table[slot]] = i;
	}
	for (int i = 0; i < n; i++)
		if (later[i] >= 0)
			found[nfound++] = later[i];
	pfree(table);
	pfree(later);
	return nfound;
}

/*
 * Whether a message is later than another one of its key that stands behind it
 * in the batch.  By offset it is not: all messages of a key lie in one
 * partition, where the array's order is the log's.
 */
static bool
is_later(const KappaBatchTable *bt, int i, int j)
{
	if (bt->table->key_order == KAPPA_KEY_ORDER_OFFSET)
		return false;
	return kappa_message_compare(&bt->batch->messages[i], &bt->batch->messages[j]) > 0;
}

/*
 * Find the last message of each key in the bound range, tombstones included.
 *
 * Walks backwards, so that the first message met of a key is the one, unless
 * timestamps say otherwise.  A plain open-addressing table of array indexes,
 * at most half full.
 */
static void
select_last_of_keys(KappaBatchCursor *cursor)
{
	KappaBatchTable *bt = cursor->bt;
	uint32 size = pg_nextpower2_32(Max(2 * (bt->part.last - bt->part.first), 16));
	int *table = MemoryContextAllocHuge(CurrentMemoryContext, size * sizeof(int));
	int n = 0;

	memset(table, -1, size * sizeof(int));
	cursor->selected = MemoryContextAllocHuge(CurrentMemoryContext,
											  Max(bt->part.last - bt->part.first, 1) * sizeof(int));
	for (int i = bt->part.last - 1; i >= bt->part.first; i--)
	{
		uint32 slot;

		if (!is_wanted(bt, i))
			continue;
		require_row(bt, i);
		finish_key(bt, i);
		reading_message = false;
		slot = find_slot(bt, table, size, i);
		if (table[slot] < 0)
			cursor->selected[n++] = slot;
		if (table[slot] < 0 || is_later(bt, i, table[slot]))
			table[slot] = i;
	}
	for (int k = 0; k < n; k++)
		cursor->selected[k] = table[cursor->selected[k]];
	pfree(table);
	cursor->nselected = n;
	cursor->position = n;
}

/* ---- cursors ---- */

KappaBatchCursor *
kappa_batch_open(Oid relid, Bitmapset *attnums)
{
	KappaBatchTable *bt = get_bound(relid);
	KappaBatchCursor *cursor = palloc0(sizeof(KappaBatchCursor));
	int attnum = -1;
	int n = bms_num_members(attnums);

	cursor->bt = bt;
	cursor->attnums = palloc(Max(n, 1) * sizeof(AttrNumber));
	cursor->cells = palloc(Max(n, 1) * sizeof(int));
	while ((attnum = bms_next_member(attnums, attnum)) >= 0)
	{
		int cell = kappa_decoder_cell(bt->decoder, attnum);

		if (cell < 0)
			elog(ERROR, "column %d of foreign table \"%s\" is not in the batch",
				 attnum, bt->table->name);
		cursor->attnums[cursor->ncolumns] = attnum;
		cursor->cells[cursor->ncolumns++] = cell;
	}
	if (bt->nkeys > 0)
		select_last_of_keys(cursor);
	else
		cursor->position = bt->part.first;
	return cursor;
}

void
kappa_batch_rewind(KappaBatchCursor *cursor)
{
	cursor->position = cursor->bt->nkeys > 0 ? cursor->nselected : cursor->bt->part.first;
}

/* Index of the next message, or -1. */
static inline int
advance(KappaBatchCursor *cursor)
{
	KappaBatchTable *bt = cursor->bt;

	if (bt->nkeys > 0)
		return cursor->position > 0 ? cursor->selected[--cursor->position] : -1;

	while (cursor->position < bt->part.last)
	{
		int i = cursor->position++;

		if (is_wanted(bt, i))
			return i;
	}
	return -1;
}

bool
kappa_batch_next(KappaBatchCursor *cursor, TupleTableSlot *slot)
{
	KappaBatchTable *bt = cursor->bt;
	const KappaMessage *message;
	Datum *values;
	uint8 *states;
	int i = advance(cursor);

	ExecClearTuple(slot);
	if (i < 0)
		return false;

	require_row(bt, i);
	message = &bt->batch->messages[i];
	values = bt->values + (Size) i * bt->ncells;
	states = bt->states + (Size) i * bt->ncells;
	memset(slot->tts_isnull, true, slot->tts_tupleDescriptor->natts * sizeof(bool));
	for (int c = 0; c < cursor->ncolumns; c++)
	{
		int cell = cursor->cells[c];
		int attno = cursor->attnums[c] - 1;

		if (likely(states[cell] == KAPPA_CELL_VALUE))
		{
			slot->tts_values[attno] = values[cell];
			slot->tts_isnull[attno] = false;
		}
		else if (states[cell] == KAPPA_CELL_DEFERRED)
			slot->tts_values[attno] =
				kappa_decode_cell(bt->decoder, cell, message, values[cell],
								  states[cell], &slot->tts_isnull[attno]);
	}
	reading_message = false;
	ExecStoreVirtualTuple(slot);
	ItemPointerSet(&slot->tts_tid, i,
				   message->value == NULL ? KAPPA_TID_BATCH_TOMBSTONE
										  : KAPPA_TID_BATCH_VALUE);
	return true;
}

/* ---- where a row came from ---- */

PG_FUNCTION_INFO_V1(kappa_sql_message_partition);
PG_FUNCTION_INFO_V1(kappa_sql_message_offset);
PG_FUNCTION_INFO_V1(kappa_sql_message_timestamp);
PG_FUNCTION_INFO_V1(kappa_sql_message_has_value);

/* The message behind a row of a batch, or NULL for a row of the log. */
static const KappaMessage *
get_batch_message(Oid relid, ItemPointer tid)
{
	KappaBatchTable *bt;
	BlockNumber i = ItemPointerGetBlockNumberNoCheck(tid);

	if (ItemPointerGetOffsetNumberNoCheck(tid) < KAPPA_TID_BATCH_TOMBSTONE)
		return NULL;

	bt = get_bound(relid);
	if (i >= bt->batch->nmessages)
		elog(ERROR, "row %u is not in the batch of %d messages",
			 i, bt->batch->nmessages);
	return &bt->batch->messages[i];
}

static int32
get_log_partition(ItemPointer tid)
{
	return (ItemPointerGetOffsetNumberNoCheck(tid) & ~KAPPA_TID_TOMBSTONE) - 1;
}

Datum
kappa_sql_message_partition(PG_FUNCTION_ARGS)
{
	ItemPointer tid = (ItemPointer) PG_GETARG_POINTER(1);
	const KappaMessage *message = get_batch_message(PG_GETARG_OID(0), tid);

	if (message != NULL)
		PG_RETURN_INT32(message->partition);
	PG_RETURN_INT32(get_log_partition(tid));
}

Datum
kappa_sql_message_offset(PG_FUNCTION_ARGS)
{
	ItemPointer tid = (ItemPointer) PG_GETARG_POINTER(1);
	const KappaMessage *message = get_batch_message(PG_GETARG_OID(0), tid);

	if (message != NULL)
		PG_RETURN_INT64(message->offset);
	PG_RETURN_INT64(kappa_bounds_get_offset(PG_GETARG_OID(0), get_log_partition(tid),
											ItemPointerGetBlockNumberNoCheck(tid)));
}

Datum
kappa_sql_message_timestamp(PG_FUNCTION_ARGS)
{
	const KappaMessage *message = get_batch_message(PG_GETARG_OID(0),
													(ItemPointer) PG_GETARG_POINTER(1));

	if (message == NULL)
		PG_RETURN_NULL();
	PG_RETURN_INT64(message->timestamp);
}

Datum
kappa_sql_message_has_value(PG_FUNCTION_ARGS)
{
	ItemPointer tid = (ItemPointer) PG_GETARG_POINTER(1);

	OffsetNumber mark = ItemPointerGetOffsetNumberNoCheck(tid);

	if (mark >= KAPPA_TID_BATCH_TOMBSTONE)
		PG_RETURN_BOOL(mark == KAPPA_TID_BATCH_VALUE);
	PG_RETURN_BOOL((mark & KAPPA_TID_TOMBSTONE) == 0);
}
