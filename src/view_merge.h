/*-------------------------------------------------------------------------
 *
 * view_merge.h
 *	  The statement that merges a delta into a view's table
 *
 * IDENTIFICATION
 *	  src/view_merge.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_VIEW_MERGE_H
#define KAPPA_VIEW_MERGE_H

#include "view_analyze.h"

/* What a merge is composed of. */
typedef struct KappaMergeParts
{
	Oid target;
	Oid companion;      /* InvalidOid if the shape needs none */
	const char *delta;  /* the query over a batch */
	const char *rows;   /* of an aggregate with a companion: rows from KAPPA_MERGED */
	const char *hidden; /* and the groups that HAVING does not show, or NULL */
	const char *placed; /* rows and hidden likewise, for place.h; NULL if there is no key */
	const char *placed_hidden;
} KappaMergeParts;

/*
 * One statement, which runs the delta and merges its rows.  Its result, where
 * it is a SELECT, is their number.
 */
extern char *kappa_merge_make(const KappaShape *shape, const KappaMergeParts *parts);

/*
 * Whether place.h can keep a view: if it has a key, and not so many columns that
 * there is no room beside them for what was there.
 */
extern bool kappa_merge_can_be_placed(const KappaShape *shape);

/* What KappaPlaces has of it: names of states, numbers of states, numbers of outputs. */
extern List *kappa_merge_get_states(const KappaShape *shape);
extern List *kappa_merge_get_old(const KappaShape *shape);
extern List *kappa_merge_get_others(const KappaShape *shape);

/*
 * What place.h is to look for, and what it is to write, from what it has found;
 * NULL if it can't keep the view.
 */
extern char *kappa_merge_make_find(const KappaShape *shape, const KappaMergeParts *parts);
extern char *kappa_merge_make_placed(const KappaShape *shape, const KappaMergeParts *parts);

/* The rows that load.h is to write. */
extern char *kappa_merge_make_load(const KappaShape *shape, const KappaMergeParts *parts);

/* One statement for what is there before any message, into empty tables. */
extern char *kappa_merge_make_birth(const KappaShape *shape, const KappaMergeParts *parts);

#endif /* KAPPA_VIEW_MERGE_H */
