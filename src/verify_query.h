/*-------------------------------------------------------------------------
 *
 * verify_query.h
 *	  The SQL that compares a view with its query, or two versions of it
 *
 * IDENTIFICATION
 *	  src/verify_query.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_VERIFY_QUERY_H
#define KAPPA_VERIFY_QUERY_H

#include "view_analyze.h"

/* What is compared. */
typedef struct KappaComparison
{
	const KappaShape *shape;
	const char *query; /* the definition over the bounded log */
	const char *table; /* qualified name */

	/*
	 * A query for keys about which the log cannot tell any more what the view
	 * had to make of them: in the order of shape->key; or NULL.
	 */
	const char *unknown_keys;
	bool skip_extra; /* nor about rows that the query does not have */
} KappaComparison;

/*
 * SELECT rows that differ (int8), names of the columns in which rows of the
 * same key differ (text; NULL if there are no such rows).
 */
extern char *kappa_verify_count_query(const KappaComparison *comparison);

/* SELECT difference (text), copies (int8), columns (text[]), row (json): at most so many. */
extern char *kappa_verify_rows_query(const KappaComparison *comparison, int64 max_rows);

/* The rows of two versions; the shape has the columns that are compared. */
typedef struct KappaVersionComparison
{
	KappaComparison rows; /* the new version's as the query, the old one's as the table */
	List *removed;        /* names (C strings) of columns that only the old version has */
	List *added;          /* and only the new one */
} KappaVersionComparison;

/*
 * SELECT difference (text), column (text), rows (int8), percent (numeric): how
 * many rows are the same, changed, removed and added, and in which columns.
 */
extern char *kappa_verify_version_summary_query(const KappaVersionComparison *comparison);

/*
 * SELECT difference (text), copies (int8), columns (text[]), old row (json),
 * new row (json): at most so many, and as many of each difference as there are.
 */
extern char *kappa_verify_version_rows_query(const KappaComparison *comparison, int64 max_rows);

#endif /* KAPPA_VERIFY_QUERY_H */
