/*-------------------------------------------------------------------------
 *
 * view_functions.h
 *	  Which functions give the same result whenever a message is read
 *
 * IDENTIFICATION
 *	  src/view_functions.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_VIEW_FUNCTIONS_H
#define KAPPA_VIEW_FUNCTIONS_H

#include "nodes/primnodes.h"

typedef enum KappaFunctionClass
{
	KAPPA_FUNCTION_PURE,     /* depends on its arguments, and on settings that a version pins */
	KAPPA_FUNCTION_LOOKUP,   /* stable: may read tables */
	KAPPA_FUNCTION_CLOCK,    /* reads the clock */
	KAPPA_FUNCTION_SESSION,  /* reads the session, the server or the catalogs */
	KAPPA_FUNCTION_VOLATILE, /* anything */
} KappaFunctionClass;

extern KappaFunctionClass kappa_function_classify(Oid funcid);

/* The functions behind an aggregate: transition, and final and combine functions if any. */
extern List *kappa_function_of_aggregate(Oid aggregate);

/*
 * How to combine two values of an aggregate that are its states too:
 * InvalidOid if the value is not the state.  *skip_null: the function must not
 * see NULL, which stands for a state without input.
 */
extern Oid kappa_function_combine(Oid aggregate, bool *skip_null);

/* True if the function makes a row from JSON with its columns' input functions. */
extern bool kappa_function_reads_json(Oid funcid);

/*
 * True if the type is one of the datetime types, or holds one (array, range,
 * composite, domain): its input function takes "now" and its like for a value.
 */
extern bool kappa_type_takes_clock_words(Oid type);

/* Likewise for time with time zone alone: its input needs to know today's offset. */
extern bool kappa_type_takes_timetz(Oid type);

#endif /* KAPPA_VIEW_FUNCTIONS_H */
