/*-------------------------------------------------------------------------
 *
 * view_fill.h
 *	  From the partial results of a replay to one delta
 *
 * IDENTIFICATION
 *	  src/view_fill.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_VIEW_FILL_H
#define KAPPA_VIEW_FILL_H

#include "view_analyze.h"

/* Whether the log can be replayed in stretches, in whatever order. */
extern bool kappa_fill_is_possible(const KappaShape *shape);

/*
 * Whether the messages of a stretch have to be in memory: a row of a scan of the
 * log does not tell its message's timestamp.
 */
extern bool kappa_fill_needs_batches(const KappaShape *shape);

/* Whether the rows of several stretches have to be made one: all but rows of events. */
extern bool kappa_fill_needs_staging(const KappaShape *shape);

/* A query over a staging table (a qualified, quoted name) that has the rows of a delta. */
extern char *kappa_fill_make_delta(const KappaShape *shape, const char *staging);

#endif /* KAPPA_VIEW_FILL_H */
