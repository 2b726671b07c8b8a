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

/*
 * Whether the log can be replayed in stretches, in whatever order.  Not of a
 * changelog in the order of timestamps: a row of the log does not tell its
 * message's.
 */
extern bool kappa_fill_is_possible(const KappaShape *shape);

/* Whether the rows of several stretches have to be made one: all but rows of events. */
extern bool kappa_fill_needs_staging(const KappaShape *shape);

/* A query over a staging table (a qualified, quoted name) that has the rows of a delta. */
extern char *kappa_fill_make_delta(const KappaShape *shape, const char *staging);

#endif /* KAPPA_VIEW_FILL_H */
