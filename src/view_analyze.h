/*-------------------------------------------------------------------------
 *
 * view_analyze.h
 *	  Is this query one that kappa can keep equal, and what is its shape?
 *
 * IDENTIFICATION
 *	  src/view_analyze.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_VIEW_ANALYZE_H
#define KAPPA_VIEW_ANALYZE_H

#include "aggregate.h"
#include "nodes/bitmapset.h"
#include "nodes/parsenodes.h"

/*
 * The shape of a query is a small tree: a scan of one topic (with its
 * lookups, lateral functions and WHERE, which the delta runs as they stand)
 * below at most one node that keeps something per key.
 */
typedef enum KappaNodeKind
{
	KAPPA_NODE_SCAN,      /* rows of an event topic, or the latest row per key of a changelog */
	KAPPA_NODE_LATEST,    /* the first row per key in some order (DISTINCT ON) */
	KAPPA_NODE_AGGREGATE, /* one row per group */
} KappaNodeKind;

typedef enum KappaOutputRole
{
	KAPPA_OUTPUT_KEY,       /* part of what identifies a row */
	KAPPA_OUTPUT_VALUE,     /* replaced when its row is */
	KAPPA_OUTPUT_AGGREGATE, /* a state that is its own value: combined with another one */
	KAPPA_OUTPUT_CONSTANT,  /* the same in all rows */
} KappaOutputRole;

/*
 * What is kept of an aggregate call.  Where the value is its own state (kind
 * KAPPA_STATE_NONE: count, sum, min, ...) two of them are combined by a plain
 * function; all others by kappa.combine().
 */
typedef struct KappaState
{
	char *name; /* of the column: the output's, or the companion's */
	Aggref *aggref;
	KappaStateKind kind;
	Oid type;
	Oid collation;
	Oid combine_fn;      /* two arguments of the type; InvalidOid unless the value is the state */
	bool combine_strict; /* a NULL state is an empty one: kappa handles it around the function */
} KappaState;

/* One output column of the query, in its order. */
typedef struct KappaOutput
{
	AttrNumber resno; /* from 1; the view's table may have other numbers: go by the name */
	char *name;
	Oid type;
	int32 typmod;
	Oid collation;
	KappaOutputRole role;
	KappaState *state; /* of AGGREGATE; NULL otherwise */
} KappaOutput;

/* One sort key of a LATEST node beyond the DISTINCT ON columns. */
typedef struct KappaOrder
{
	AttrNumber resno;  /* target entry (may be a junk one) */
	AttrNumber output; /* the output column that carries it; 0: only the companion can */
	Oid type;
	int32 typmod;
	Oid collation;
	Oid sort_operator; /* "less than" of the wanted direction */
	bool nulls_first;
} KappaOrder;

typedef struct KappaNode
{
	KappaNodeKind kind;
	struct KappaNode *child; /* NULL for a scan */

	/* SCAN */
	Oid source;       /* the foreign table */
	Index source_rti; /* its place in the query's range table */
	bool changelog;
	Bitmapset *columns; /* attribute numbers of source: those read, and a changelog's key */
	List *lookups;      /* OIDs of ordinary tables */

	/*
	 * AGGREGATE.  Either every aggregate is an output column and its own state,
	 * or the companion has all states, and the view's rows are computed from it:
	 * never half and half.
	 */
	List *states; /* of KappaState, the first of which counts the rows; NIL: no companion */

	/* LATEST */
	List *order;                 /* of KappaOrder, outermost first; without (partition, offset) */
	AttrNumber partition_output; /* the output columns that carry a message's place; 0: none does */
	AttrNumber offset_output;
} KappaNode;

typedef struct KappaShape
{
	KappaNode *root;
	KappaNode *scan;   /* the leaf */
	const char *kind;  /* "append", "latest", "aggregate": a name for people */
	List *outputs;     /* of KappaOutput */
	List *key;         /* resnos that identify a row; NIL: append, or aggregate without GROUP BY */
	bool key_not_null; /* all key columns are known not to be NULL (changelog keys) */
	bool needs_companion;
	char *inexact; /* why the equality is not exact (lookups, float sums), or NULL */
	bool looks_up; /* the rows depend on more than the log: tables, stable functions */
} KappaShape;

/*
 * Analyse a query.  query is a parse-analysed, not rewritten SELECT, or a
 * view's rule tree, made flat (view_flatten.h); it is not changed.  source_text
 * is what error positions refer to, or NULL when the query does not come from a
 * text (a worker reading the definition).  warn: emit the warnings meant for
 * the author.
 *
 * Throws 0A000 for what cannot be kept, naming the construct, with a position
 * and a hint; 42P17/42809 for misuse (no topic in the query, ...).
 */
extern KappaShape *kappa_analyze_query(Query *query, const char *source_text, bool warn);

#endif /* KAPPA_VIEW_ANALYZE_H */
