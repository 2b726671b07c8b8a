/*-------------------------------------------------------------------------
 *
 * view_callees.h
 *	  Whether the text of a statement calls what the view's query calls
 *
 * IDENTIFICATION
 *	  src/view_callees.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_VIEW_CALLEES_H
#define KAPPA_VIEW_CALLEES_H

#include "nodes/parsenodes.h"

/*
 * From now on, and until the current memory context is reset, the text is
 * parsed in this process only if it calls no functions but PostgreSQL's,
 * kappa's, those by which types are sorted, and those of the definition (NULL:
 * none).  Throws ERRCODE_AMBIGUOUS_FUNCTION where it is parsed.  The text must
 * live as long as the context.
 */
extern void kappa_callees_expect(const char *text, Query *definition);

extern void kappa_callees_init(void);

#endif /* KAPPA_VIEW_CALLEES_H */
