/*-------------------------------------------------------------------------
 *
 * view_states.h
 *	  Aggregates taken apart: into states, and into what is computed from them
 *
 * IDENTIFICATION
 *	  src/view_states.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_VIEW_STATES_H
#define KAPPA_VIEW_STATES_H

#include "view_analyze.h"

/*
 * An average that is the quotient of two values which are their own states:
 * cheaper to keep than what the aggregate would write, legible, and the same in
 * the next version of PostgreSQL.  False of other aggregates.
 */
extern bool kappa_states_split(const Aggref *aggref, Aggref **sum, Aggref **count);

/* The definition with its key columns and the partial states in place of its outputs. */
extern Query *kappa_states_make_partial(Query *definition, const KappaShape *shape);

/*
 * The definition's outputs, computed from KAPPA_MERGED, a relation that has the
 * companion's columns.  hidden: instead, the keys of the groups that HAVING does
 * not show.
 */
extern Query *kappa_states_make_final(Query *definition, const KappaShape *shape,
									  bool hidden);

/*
 * Likewise what place.h writes, from a KAPPA_MERGED that has KAPPA_COLUMN_STORED,
 * too: KAPPA_COLUMN_KEEP is false in the groups that HAVING does not show, and
 * other outputs than the key NULL.
 */
extern Query *kappa_states_make_placed(Query *definition, const KappaShape *shape,
									   bool hidden);

#endif /* KAPPA_VIEW_STATES_H */
