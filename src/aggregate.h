/*-------------------------------------------------------------------------
 *
 * aggregate.h
 *	  Aggregates whose states are kept: what planning a view has to know
 *
 * IDENTIFICATION
 *	  src/aggregate.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_AGGREGATE_H
#define KAPPA_AGGREGATE_H

#include "nodes/primnodes.h"

typedef enum KappaStateKind
{
	KAPPA_STATE_NONE,  /* cannot be kept */
	KAPPA_STATE_TYPED, /* a value of the transition type */
	KAPPA_STATE_SERIAL /* kappa.state: the transition type is internal */
} KappaStateKind;

/*
 * How the state of an aggregate call can be kept; NONE: PostgreSQL cannot run
 * it in parallel.  *type: the (resolved) transition type of a TYPED one, the
 * OID of kappa.state of a SERIAL one.
 *
 * NONE is also what a state gets whose type no column can have (record).
 * Throws where a polymorphic transition type does not fit the arguments.
 */
extern KappaStateKind kappa_aggregate_state_kind(const Aggref *aggref, Oid *type);

/*
 * True if an aggregate's arguments are polymorphic or "any".  Its state and
 * result may not tell what they were: kappa.finalize() wants nulls of their
 * types then, after the result.
 */
extern bool kappa_aggregate_is_polymorphic(Oid aggregate);

#endif /* KAPPA_AGGREGATE_H */
