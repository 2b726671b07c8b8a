/*-------------------------------------------------------------------------
 *
 * view_text.h
 *	  Pieces of the SQL that keeps a view: lists of columns, and comparisons
 *
 * All results are palloc'd; names are quoted as the settings in force require.
 * alias is what stands before a column's name, or NULL.
 *
 * IDENTIFICATION
 *	  src/view_text.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_VIEW_TEXT_H
#define KAPPA_VIEW_TEXT_H

#include "lib/stringinfo.h"
#include "view_analyze.h"

extern char *kappa_text_column(const char *alias, const char *name);

/* The output that a cell of shape->key names. */
extern KappaOutput *kappa_text_key_output(const KappaShape *shape, ListCell *resno);

/*
 * A statement inside another one: its lines are indented, but for those that
 * are inside a literal or a quoted name.
 */
extern char *kappa_text_indent(const char *sql);

/* All columns of the view: a, b, c */
extern char *kappa_text_outputs(const KappaShape *shape, const char *alias);

/* The key columns, in the order of the index; an empty text if there are none. */
extern char *kappa_text_key(const KappaShape *shape, const char *alias);

/* Is it one of a list of names (C strings)? */
extern bool kappa_text_has_name(const List *names, const char *name);

/* What the companion holds beside the key, but for KAPPA_COLUMN_SHOWN; its names, too. */
extern List *kappa_text_state_names(const KappaShape *shape);
extern char *kappa_text_state(const KappaShape *shape, const char *alias);

/* Whether there is a NULL in the key of a row, or none. */
extern void kappa_text_append_null_key(StringInfo buf, const KappaShape *shape,
									   const char *alias, bool null);

/*
 * Equality of the keys of two rows, by the operators of the index.  nulls: a
 * NULL is equal to a NULL; slower.
 */
extern void kappa_text_append_match(StringInfo buf, const KappaShape *shape,
									const char *left, const char *right, bool nulls);

/*
 * True if a new row comes before the stored one in the order of DISTINCT ON,
 * completed by the place in the log, which is in these columns.
 */
extern void kappa_text_append_comes_before(StringInfo buf, const KappaShape *shape,
										   const char *new, const char *stored,
										   const char *partition, const char *offset);

/* Two states of an aggregate, as one. */
extern void kappa_text_append_combination(StringInfo buf, const KappaState *state,
										  const char *left, const char *right);

/*
 * Assignments of what changes when a row meets another one of its key, each
 * after a line break; false if nothing does.
 */
extern bool kappa_text_append_assignments(StringInfo buf, const KappaShape *shape,
										  const char *other);

#endif /* KAPPA_VIEW_TEXT_H */
