/*-------------------------------------------------------------------------
 *
 * definition_functions.h
 *	  What the functions behind a definition do
 *
 * IDENTIFICATION
 *	  src/definition_functions.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_DEFINITION_FUNCTIONS_H
#define KAPPA_DEFINITION_FUNCTIONS_H

#include "nodes/pg_list.h"

/* A function or aggregate that a query uses, itself or through an operator, a cast or a type. */
typedef struct KappaCallee
{
	Oid function;
	char *hash; /* of what it does, and all functions that it is known to call */
} KappaCallee;

/*
 * The functions that a definition uses, of those that are not PostgreSQL's own:
 * a list of KappaCallee.  If all is not NULL the OIDs of these and of the
 * functions behind them are added to it.
 */
extern List *kappa_definition_list_callees(Oid definition, List **all);

/* The hashes of a list of KappaCallee, as a list. */
extern List *kappa_definition_hash_callees(const List *callees);

/*
 * The first one of a list whose hash is not among those (C strings) that were
 * taken when the version was made; InvalidOid if there is none.
 */
extern Oid kappa_definition_find_changed_callee(const List *callees, const List *before);

#endif /* KAPPA_DEFINITION_FUNCTIONS_H */
