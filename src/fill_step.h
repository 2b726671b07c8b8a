/*-------------------------------------------------------------------------
 *
 * fill_step.h
 *	  What a replay runs: the delta over a stretch, and the merge of all results
 *
 * All functions need a transaction, and act as the owner of the version.
 *
 * IDENTIFICATION
 *	  src/fill_step.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_FILL_STEP_H
#define KAPPA_FILL_STEP_H

#include "apply.h"
#include "fill_batch.h"
#include "fill_run.h"

/*
 * Whether the rows are where people read them: then the position has to say at
 * all times which messages they are of.  It can, if each partition is read from
 * its start on.
 */
static inline bool
kappa_fill_is_read(const KappaApplier *applier, Oid staging)
{
	return applier->live && !OidIsValid(staging);
}

/* A version for which a stretch is read. */
typedef struct KappaFillMember
{
	KappaFillShare *share;
	KappaApplier *applier;
	uint64 messages;   /* that were read for it */
	uint64 bytes;      /* of their keys and values */
	uint64 rows;       /* that the delta has made */
	uint64 time_taken; /* us */
} KappaFillMember;

/*
 * Run the deltas of versions (of KappaFillMember; all read the same foreign table
 * as the same owner) over a stretch of the log, and keep the rows: in a staging
 * table, or in the version's own.
 */
extern void kappa_fill_read(const List *members, const KappaStretch *stretch);

/* Make one row of all partial results of a key, in the version's tables, which are empty. */
extern void kappa_fill_merge(KappaApplier *applier, const KappaFill *fill);

#endif /* KAPPA_FILL_STEP_H */
