/*-------------------------------------------------------------------------
 *
 * place.h
 *	  Find what is kept for the keys of a batch, and put what comes out of it there
 *
 * IDENTIFICATION
 *	  src/place.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_PLACE_H
#define KAPPA_PLACE_H

#include "nodes/pg_list.h"
#include "tcop/dest.h"
#include "utils/queryenvironment.h"

/*
 * The tables of a view whose rows have a key.  What is looked up of a key is
 * called its states: those of aggregates, or what its row is ordered by, in the
 * companion; without one, the row itself but for its key.
 */
typedef struct KappaPlaces
{
	Oid target;
	List *columns; /* of target, one for each output of the query */
	List *key;     /* numbers of outputs */
	Oid companion; /* has the key's columns, the states, and KAPPA_COLUMN_SHOWN; or InvalidOid */
	int nstates;
	List *old;      /* numbers of the states that are wanted as they were */
	List *others;   /* outputs that are handed on, beside the key and what the companion has */
	bool changelog; /* a key may have no row any more */
} KappaPlaces;

/* Whether kappa_keyed_open() may be used for both tables; companion may be InvalidOid. */
extern bool kappa_place_is_possible(Oid target, Oid companion);

/*
 * Make a relation, for queries, that has
 *
 *		key, states, other outputs, KAPPA_COLUMN_KEEP, KAPPA_COLUMN_OLD of some states,
 *		KAPPA_COLUMN_STORED, KAPPA_COLUMN_SHOWN
 *
 * KAPPA_COLUMN_KEEP only of a changelog, KAPPA_COLUMN_STORED only if there is a
 * companion.  Whoever has it ends its tuplestore.
 */
extern EphemeralNamedRelation kappa_place_make_relation(const KappaPlaces *places,
														const char *name);

/*
 * A receiver for rows of key, states and other outputs, and of a changelog
 * KAPPA_COLUMN_KEEP.  It looks each key up and fills the relation; what is not
 * found is NULL there.
 */
extern DestReceiver *kappa_place_create_finder(const KappaPlaces *places,
											   EphemeralNamedRelation relation);

/*
 * A receiver that writes the table, and the companion if there is one.  Its rows have
 *
 *		outputs, states, KAPPA_COLUMN_STORED, KAPPA_COLUMN_SHOWN, KAPPA_COLUMN_KEEP
 *
 * the last of which says whether the row is in the view; states and
 * KAPPA_COLUMN_STORED only if there is a companion.
 */
extern DestReceiver *kappa_place_create_writer(const KappaPlaces *places);

#endif /* KAPPA_PLACE_H */
