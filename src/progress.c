/*-------------------------------------------------------------------------
 *
 * progress.c
 *	  Show how the views of a source are doing, and where they stand
 *
 * What is shown follows from the distance between a view's position and the
 * end of the log as last seen.  That end is exact when EOF events tell it, and
 * up to a second old while there is more to read.
 *
 * IDENTIFICATION
 *	  src/progress.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "kappa.h"
#include "progress.h"

/* Messages between a view's position and the end, by offsets. */
static int64
get_lag(KappaServed *served)
{
	KappaSource *source = served->source;
	int64 lag = 0;

	for (int p = 0; p < source->npartitions; p++)
		lag += Max(source->end[p] - served->applier->next_offset[p], 0);
	return lag;
}

/*
 * A view that is less than a batch behind is "running"; one that has become
 * so only a moment ago has to come a good deal closer, lest the state flaps.
 */
static KappaRunState
judge_state(KappaServed *served, int64 lag, bool ends_are_fresh)
{
	if (lag == 0)
		return KAPPA_RUN_RUNNING;
	if (served->state == KAPPA_RUN_RUNNING)
		return lag <= kappa_batch_rows ? KAPPA_RUN_RUNNING : KAPPA_RUN_CATCHING_UP;
	if (ends_are_fresh && lag <= kappa_batch_rows / 10)
		return KAPPA_RUN_RUNNING;
	return KAPPA_RUN_CATCHING_UP;
}

/*
 * A view that failed by itself is well again when it is at the end of the log,
 * or has gone on for a minute.
 */
static bool
has_recovered(KappaServed *served, int64 lag)
{
	if (served->source->suspended)
		return false;
	return !served->failing || lag == 0 ||
		   TimestampDifferenceExceeds(served->opened_at, GetCurrentTimestamp(), KAPPA_HEALTHY_MS);
}

static void
report_view(KappaServed *served, bool ends_are_fresh)
{
	KappaSource *source = served->source;
	int64 lag = get_lag(served);
	KappaRunState state = judge_state(served, lag, ends_are_fresh);

	kappa_shmem_view_publish(served->slot, source->npartitions,
							 source->end, source->last.timestamp);
	if (served->troubled && has_recovered(served, lag))
		kappa_worker_resume_view(served);
	if (!served->troubled && state != served->state)
	{
		kappa_shmem_view_set_state(served->slot, state);
		served->state = state;
	}
	if (kappa_source_has_seen_ends(source) || (ends_are_fresh && lag <= kappa_batch_rows))
		served->caught_up = true;
}

void
kappa_progress_report(KappaSource *source, bool ends_are_fresh)
{
	ListCell *lc;

	source->unreported = false;
	foreach(lc, source->views)
	{
		KappaServed *served = lfirst(lc);

		if (served->log_set)
			report_view(served, ends_are_fresh);
	}
}
