/*-------------------------------------------------------------------------
 *
 * fill_batch.h
 *	  Read a stretch of the log into memory, one batch after the other
 *
 * IDENTIFICATION
 *	  src/fill_batch.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_FILL_BATCH_H
#define KAPPA_FILL_BATCH_H

#include "batch.h"

/* A part of the log: of partition p the offsets start[p] up to, not including, end[p]. */
typedef struct KappaStretch
{
	int npartitions;
	int64 *start;
	int64 *end;
	int64 messages; /* by offsets */
} KappaStretch;

typedef struct KappaFillReader KappaFillReader;

/*
 * Connect with the credentials of userid.  Throws if the brokers cannot be
 * reached, or do not have all of the stretch.  Lives in CurrentMemoryContext,
 * whose reset closes it.
 */
extern KappaFillReader *kappa_fill_reader_open(const KappaTable *table, Oid userid,
											   bool with_headers, const KappaStretch *stretch);
extern void kappa_fill_reader_close(KappaFillReader *reader);

/*
 * The next messages, copied: as many as are worth memory that a process may
 * take (maintenance_work_mem).  They are valid until the next call.  NULL when
 * all of the stretch was read.
 */
extern KappaBatch *kappa_fill_reader_next(KappaFillReader *reader);

#endif /* KAPPA_FILL_BATCH_H */
