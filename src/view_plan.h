/*-------------------------------------------------------------------------
 *
 * view_plan.h
 *	  From a view's definition to the SQL that keeps it
 *
 * The delta is built on the definition's tree and deparsed; the rest is
 * composed around it as text.  All names in the result are qualified as far as
 * the search_path in force requires; constants are printed in ISO form.
 *
 * IDENTIFICATION
 *	  src/view_plan.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_VIEW_PLAN_H
#define KAPPA_VIEW_PLAN_H

#include "view_analyze.h"

typedef struct KappaStatements
{
	char *delta; /* the query over one batch, as rows or partial results: a SELECT */
	char *merge; /* delta and its merge into the table (and companion): one statement */

	/*
	 * The same for place.h: what is to be found, and what is to be written; both
	 * NULL where it can't be used.  See view_merge.h.
	 */
	char *find;
	char *place;

	/*
	 * merge joins the delta with the view's own tables, and with nothing else:
	 * plan it so that the rows are found by the index of the key.
	 */
	bool by_index;
} KappaStatements;

/* Statements for a version whose rows are kept in target (and companion, or InvalidOid). */
extern KappaStatements *kappa_plan_statements(Query *definition, const KappaShape *shape,
											  Oid target, Oid companion, bool pretty);

/*
 * DDL of a new view's table under a qualified, quoted name: a list of C strings,
 * to be run in order: CREATE TABLE with columns, then key, replica identity and
 * storage parameters.  Without the guard trigger.
 */
extern List *kappa_plan_table_ddl(const KappaShape *shape, const char *qualified_name);

/* Likewise for the companion; NIL if the shape needs none. */
extern List *kappa_plan_companion_ddl(const KappaShape *shape, const char *qualified_name);

/* Likewise for the staging table of a replay. */
extern List *kappa_plan_staging_ddl(const KappaShape *shape, const char *qualified_name);

/* The query over a stretch of the log: a SELECT.  See view_delta.h. */
extern char *kappa_plan_stretch(Query *definition, const KappaShape *shape, bool in_memory);

/* What becomes of the staging table of a replay; see view_fill.h. */
typedef struct KappaFillStatements
{
	char *load;  /* rows for load.h: a SELECT; NULL if they have no key */
	char *merge; /* the same as one statement that writes them */
} KappaFillStatements;

extern KappaFillStatements *kappa_plan_fill(Query *definition, const KappaShape *shape,
											Oid target, Oid companion, Oid staging);

/*
 * The statement that puts the row(s) into a new table that are there before
 * any message (an aggregate without GROUP BY); NULL if there are none.
 */
extern char *kappa_plan_birth(Query *definition, const KappaShape *shape,
							  Oid target, Oid companion);

/*
 * The definition as a SELECT over the bounded log (alias KAPPA_BOUNDED_ALIAS),
 * ties completed: what the view's rows must equal.
 */
extern char *kappa_plan_bounded_query(Query *definition, const KappaShape *shape);

#endif /* KAPPA_VIEW_PLAN_H */
