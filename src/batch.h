/*-------------------------------------------------------------------------
 *
 * batch.h
 *	  Messages in memory, decoded once for all views that read them
 *
 * A batch holds messages of one topic, of any partitions, in the order in
 * which they arrived (which within a partition is the order of the log).  For
 * each foreign table over that topic it keeps a view of the same messages as
 * rows (KappaBatchTable), decoded when a scan first touches them, for the
 * union of the columns that any view needs.
 *
 * Scans under the alias "kappa batch" read the KappaBatchTable that is bound
 * to their foreign table in this process, from the positions that are bound
 * with it: a view does not see again what it already has.
 *
 * IDENTIFICATION
 *	  src/batch.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_BATCH_H
#define KAPPA_BATCH_H

#include "decode.h"
#include "executor/tuptable.h"

typedef struct KappaBatch
{
	MemoryContext context; /* of decoded values; reset with the batch */
	int nmessages;
	KappaMessage *messages; /* KAPPA_MESSAGE_DATA only */
} KappaBatch;

/*
 * A row of a batch is identified by its place in the array (block number) and
 * one of these marks (offset number).  Scans of the log use offset numbers up
 * to KAPPA_TID_MAX_PARTITION + 1 for partition + 1, and add KAPPA_TID_TOMBSTONE
 * to those of messages without a value.
 */
#define KAPPA_TID_BATCH_VALUE 0xFFFE
#define KAPPA_TID_BATCH_TOMBSTONE 0xFFFD
#define KAPPA_TID_TOMBSTONE 0x8000
#define KAPPA_TID_MAX_PARTITION 30000

typedef struct KappaBatchTable KappaBatchTable;
typedef struct KappaBatchCursor KappaBatchCursor;

/* Lives in CurrentMemoryContext; columns as for kappa_decoder_create(). */
extern KappaBatchTable *kappa_batch_table_create(const KappaTable *table, Bitmapset *columns);

/* Point a table at new messages; forgets the rows decoded before. */
extern void kappa_batch_table_load(KappaBatchTable *bt, KappaBatch *batch);

/* Some of the messages of a batch, by their places in its array. */
typedef struct KappaBatchPart
{
	int first;
	int last;                  /* the place behind the last one */
	const Bitmapset *excluded; /* left out between the two; or NULL */
	bool again;                /* also messages that lie before the view's position */
} KappaBatchPart;

/*
 * Bind a table for the statements that follow, until kappa_batch_unbind_all().
 * Messages below next_offset[partition] are skipped (partitions at or beyond
 * npartitions are read whole), and so are messages that are not in the part.
 * What is passed must outlive the binding.
 */
extern void kappa_batch_bind(KappaBatchTable *bt, const int64 *next_offset,
							 int npartitions, const KappaBatchPart *part);
extern void kappa_batch_unbind_all(void);

/* Rows bound to a foreign table now, for the planner's estimate; -1 if none. */
extern double kappa_batch_bound_rows(Oid relid);

/*
 * Cursor over the rows bound to a foreign table; throws 55000 if none is
 * bound.  attnums are the columns that the scan needs.  Two cursors over one
 * table are independent.  For a changelog the rows are the last message of
 * each key in the bound range, tombstones included.
 */
extern KappaBatchCursor *kappa_batch_open(Oid relid, Bitmapset *attnums);

/*
 * Of a changelog's batch: find the last of the messages behind the first n, for
 * each key that one of these has, excluded ones aside.  Sets found (room for n)
 * to their places, and returns how many there are.  Converts keys, so it runs
 * as the owner of the view.  Throws what is thrown for a message without a key.
 */
extern int kappa_batch_find_later(KappaBatchTable *bt, int n, const Bitmapset *excluded,
								  int *found);

/*
 * Store the next row in slot (a slot of the foreign table's row type): the
 * needed columns, others NULL; tts_tid identifies the message for
 * kappa.message_partition() and its siblings.  False at the end.  Throws the
 * data error of a message that is malformed, or of a column that is read here.
 * Runs in the caller's (per-tuple) memory context.
 */
extern bool kappa_batch_next(KappaBatchCursor *cursor, TupleTableSlot *slot);
extern void kappa_batch_rewind(KappaBatchCursor *cursor);

/*
 * The message at which the last scan of this process stood: index into the
 * batch's array, or -1.  Where to look first for a message at fault.  *reading
 * is set if it was being decoded or converted: after an error, that is the one.
 */
extern int kappa_batch_current(bool *reading);

#endif /* KAPPA_BATCH_H */
