/*-------------------------------------------------------------------------
 *
 * fill.h
 *	  Replay the log into a version by several processes
 *
 * IDENTIFICATION
 *	  src/fill.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_FILL_H
#define KAPPA_FILL_H

#include "apply.h"
#include "shmem.h"

/*
 * Hand a version over to the processes that replay, if it stands at its start,
 * far from the end of the log, and can be filled so.  end is what
 * kappa_apply_set_log was told.  Needs a transaction.  True: the caller must
 * not apply anything to it, now or as it was handed over before.
 */
extern bool kappa_fill_begin(KappaApplier *applier, const int64 *end);

/* What kappa.views says of a view meanwhile. */
#define KAPPA_REPLAYING_REASON "replaying the log"

/* What such a process is told by whoever starts it (bgw_extra). */
typedef struct KappaFillerArgument
{
	KappaProcessId id;
	Oid view;
	int32 version;
} KappaFillerArgument;

extern PGDLLEXPORT void kappa_filler_main(Datum arg);

#endif /* KAPPA_FILL_H */
