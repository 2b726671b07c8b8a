/*-------------------------------------------------------------------------
 *
 * view_refuse.h
 *	  Saying no to a query, with a position and a way out
 *
 * IDENTIFICATION
 *	  src/view_refuse.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_VIEW_REFUSE_H
#define KAPPA_VIEW_REFUSE_H

#include "compat.h"
#include "parser/parse_node.h"

/*
 * Refuse a construct: 0A000 with the message, a hint unless NULL, and the
 * position of location in the text that pstate knows (none if it knows none).
 */
pg_noreturn extern void kappa_refuse(ParseState *pstate, int location,
									 const char *message, const char *hint);

/*
 * For ereport: the place of a location.  The text is not the statement that
 * the user's client knows, so it is reported as the query inside.
 */
extern int kappa_refuse_position(ParseState *pstate, int location);

/*
 * Where the text names a relation of the range table, or -1.  Range table
 * entries carry no position, so the text is parsed once more to find it.
 */
extern int kappa_refuse_locate(ParseState *pstate, const RangeTblEntry *rte);

#endif /* KAPPA_VIEW_REFUSE_H */
