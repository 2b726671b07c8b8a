/*-------------------------------------------------------------------------
 *
 * view_commands.h
 *	  What making a view and rebuilding one have in common
 *
 * IDENTIFICATION
 *	  src/view_commands.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_VIEW_COMMANDS_H
#define KAPPA_VIEW_COMMANDS_H

#include "storage/lockdefs.h"

#include "catalog.h"
#include "view_analyze.h"

/* Throws 55000 with the line to add where kappa's processes cannot run. */
extern void kappa_view_require_preload(void);

/*
 * The view, which the current user must own, locked until the end of the
 * transaction: so it is neither dropped, renamed nor given away meanwhile.
 * Throws 42P01, 42501 or 42809 otherwise.
 */
extern KappaView *kappa_view_require_owned(Oid relid, LOCKMODE lockmode);

/* Throw 42501 unless the current user owns the view or may read a column of it. */
extern void kappa_view_require_readable(const KappaView *view);

/*
 * Whether the current user may see messages of errors about a role's views,
 * which may quote what is in the log: as pg_stat_activity shows queries.
 */
extern bool kappa_view_shows_messages(Oid owner);

/*
 * The live version of a view, locked so that it stays that until the end of
 * the transaction.  The caller holds a lock on the view.  Throws 40001 if the
 * transaction's snapshot is too old to see it.
 */
extern KappaVersion *kappa_view_lock_live_version(Oid relid);

/* Throws 55000 if what a version's rows are made by is gone. */
extern void kappa_view_require_definition(const KappaVersion *version);

/*
 * Create what a version needs beside its target: definition and companion,
 * and the rows that are there before any message.  Acts as the current user,
 * who must be the owner of the view.  Nothing is put into kappa's tables.
 */
extern KappaVersion *kappa_view_create_version(const char *query_text, const KappaShape *shape,
											   Oid view, Oid target, int32 number);

/*
 * Insert a version into kappa.view_version and kappa.position.  settings is a
 * text[] of name=value; start offsets of partitions 0 .. npartitions - 1, none
 * for the beginning of the log.
 */
extern void kappa_view_insert_version(const KappaVersion *version, Datum settings,
									  const char *topic, const int64 *start, int npartitions);

#endif /* KAPPA_VIEW_COMMANDS_H */
