/*-------------------------------------------------------------------------
 *
 * keyed.h
 *	  A table with a unique key: find rows by it, and write them
 *
 * IDENTIFICATION
 *	  src/keyed.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_KEYED_H
#define KAPPA_KEYED_H

#include "access/genam.h"
#include "access/skey.h"
#include "nodes/bitmapset.h"
#include "nodes/execnodes.h"
#include "storage/buf.h"

/* A table that is open for one statement. */
typedef struct KappaKeyed
{
	Relation rel;
	TupleTableSlot *row;   /* the caller's: what is looked for, or written */
	TupleTableSlot *found; /* what kappa_keyed_find() has found */

	/* keyed.c's */
	ResultRelInfo *result;
	EState *estate;
	Snapshot snapshot;
	CommandId command;
	BlockNumber nblocks; /* there are at least so many */
	Buffer buffer;       /* the last page that was read, pinned, or invalid */
	int identified;      /* bits of the commands that a replica identity was asked for */
	Size room;           /* bytes that the largest version needs in a page */
	IndexScanDesc scan;
	int nkeys;
	ScanKeyData equal[INDEX_MAX_KEYS]; /* conditions on the index, without values */
} KappaKeyed;

/*
 * Whether kappa_keyed_open() may be used: false if somebody has made the table
 * more than a heap with indexes and constraints, triggers for one, or has dropped
 * it.  It is locked until the end of the transaction.
 */
extern bool kappa_keyed_is_possible(Oid relid);

/*
 * An index of a table over these columns in which each key is at most once, NULLs
 * included, by the equality that the columns have everywhere else.
 */
extern bool kappa_keyed_is_key_index(Relation rel, Relation index, const Bitmapset *key);

/*
 * Open a table on which the caller holds a lock.  key: numbers of the columns
 * of its key, in which two NULLs are equal.  Rows are found as the active
 * snapshot sees them.  No privileges are checked, and no triggers run.
 */
extern KappaKeyed *kappa_keyed_open(Oid relid, const Bitmapset *key);
extern void kappa_keyed_close(KappaKeyed *table);

/* Begin a row, then fill its tts_values and tts_isnull, and end it. */
extern void kappa_keyed_begin_row(KappaKeyed *table);
extern void kappa_keyed_end_row(KappaKeyed *table);

/*
 * Find the row with the key of table->row.  place: where it probably is, or
 * invalid; on success where it is, for the next time.  A place remains until
 * the row is moved, and may be any number: it is only believed.
 */
extern bool kappa_keyed_find(KappaKeyed *table, ItemPointer place);

/*
 * Write table->row, in the place of the row at tid or as a new one.  place is
 * set where the row is moved.  Waits for those who hold a lock on the row, and
 * throws if they change it.
 */
extern void kappa_keyed_insert(KappaKeyed *table, ItemPointer place);
extern void kappa_keyed_update(KappaKeyed *table, ItemPointer tid, ItemPointer place);
extern void kappa_keyed_delete(KappaKeyed *table, ItemPointer tid);

#endif /* KAPPA_KEYED_H */
