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

/* The tables of a view whose rows have a key and are computed from states. */
typedef struct KappaPlaces
{
	Oid target;
	List *columns; /* of target, one for each output of the query */
	List *key;     /* numbers of outputs */
	Oid companion; /* has the key's columns first, then the states, then KAPPA_COLUMN_SHOWN */
	int nstates;
} KappaPlaces;

/*
 * Make a relation, for queries, that has
 *
 *		key, states, KAPPA_COLUMN_OLD of each state, KAPPA_COLUMN_STORED, KAPPA_COLUMN_SHOWN
 *
 * Whoever has it ends its tuplestore.
 */
extern EphemeralNamedRelation kappa_place_make_relation(const KappaPlaces *places,
														const char *name);

/*
 * A receiver for rows of key and states.  It looks each key up in the companion
 * and fills the relation; what the companion does not have is NULL there.
 */
extern DestReceiver *kappa_place_create_finder(const KappaPlaces *places,
											   EphemeralNamedRelation relation);

/*
 * A receiver that writes both tables.  Its rows have
 *
 *		outputs, states, KAPPA_COLUMN_STORED, KAPPA_COLUMN_SHOWN, KAPPA_COLUMN_KEEP
 *
 * the last of which says whether the row is in the view.
 */
extern DestReceiver *kappa_place_create_writer(const KappaPlaces *places);

#endif /* KAPPA_PLACE_H */
