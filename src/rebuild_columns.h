/*-------------------------------------------------------------------------
 *
 * rebuild_columns.h
 *	  Columns of a view's table when its query changes
 *
 * As CREATE OR REPLACE VIEW has it, columns keep name, type and place, and new
 * ones come last; and one may be left out, which then is dropped.  The shadow
 * has the layout that the table will have, with what was dropped and will be,
 * so that the two can exchange their storage.
 *
 * IDENTIFICATION
 *	  src/rebuild_columns.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_REBUILD_COLUMNS_H
#define KAPPA_REBUILD_COLUMNS_H

#include "catalog.h"
#include "view_analyze.h"

/*
 * Throw unless the table of a view can become that of a query's shape: 42P16
 * for what does not fit, 2BP01 where something depends on a column that the
 * query leaves out.  Says in a NOTICE what goes with such a column.  The
 * caller has locked the view's table.
 */
extern void kappa_columns_check(const KappaView *view, const KappaVersion *from,
								const KappaShape *shape);

/* Create a shadow in kappa_state as the current user; suffix becomes part of its name. */
extern Oid kappa_columns_create_shadow(const KappaView *view, const KappaShape *shape,
									   const char *suffix);

/* True if a view's table has other columns than its shadow. */
extern bool kappa_columns_differ(Oid target, Oid shadow);

/*
 * Drop and add columns of a view's table until it has those of the shadow, as
 * the current user, who must own it.  The caller has locked both in ACCESS
 * EXCLUSIVE mode.  Throws 2BP01 where something depends on a column that goes.
 */
extern void kappa_columns_follow(Oid target, Oid shadow);

#endif /* KAPPA_REBUILD_COLUMNS_H */
