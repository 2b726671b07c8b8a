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
 * Run the delta over a stretch of the log, and keep its rows: in the staging
 * table, or in the version's own.  Returns their number.
 */
extern uint64 kappa_fill_read(KappaApplier *applier, const KappaFill *fill,
							  const KappaStretch *stretch);

/* Make one row of all partial results of a key, in the version's tables, which are empty. */
extern void kappa_fill_merge(KappaApplier *applier, const KappaFill *fill);

#endif /* KAPPA_FILL_STEP_H */
