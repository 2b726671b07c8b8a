/*-------------------------------------------------------------------------
 *
 * append.h
 *	  Insert rows into a table, many at a time
 *
 * IDENTIFICATION
 *	  src/append.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_APPEND_H
#define KAPPA_APPEND_H

#include "executor/tuptable.h"
#include "tcop/dest.h"

/*
 * Whether INSERT ... SELECT into a table may be replaced: false if somebody has
 * made it more than a table with indexes and constraints, triggers for one.
 * The caller holds a lock on it.
 */
extern bool kappa_append_is_possible(Oid target);

/*
 * A table to which rows are appended.  As COPY does, and unlike INSERT, it
 * writes many of them into a page at once and logs them together.  No
 * privileges are checked.  rows: has the table's columns, by name and type, and
 * may have others.  indexed: false if the caller is going to build the indexes
 * anew in the same transaction, so that nobody sees them without the rows.
 */
typedef struct KappaAppend KappaAppend;

#define KAPPA_APPEND_MAX_ROWS 1000

extern KappaAppend *kappa_append_open(Oid relid, TupleDesc rows, bool indexed);
extern void kappa_append_close(KappaAppend *append);

/*
 * Add a row; when it is full, write what was added, and then clear it.  The
 * slot that is returned holds the table's row, and after it was written knows
 * where that is, until it is cleared.
 */
extern TupleTableSlot *kappa_append_add(KappaAppend *append, TupleTableSlot *row);
extern bool kappa_append_is_full(const KappaAppend *append);
extern void kappa_append_write(KappaAppend *append);
extern void kappa_append_clear(KappaAppend *append);

/* A receiver that appends all rows of one execution of a query. */
extern DestReceiver *kappa_append_create_receiver(Oid relid);

#endif /* KAPPA_APPEND_H */
