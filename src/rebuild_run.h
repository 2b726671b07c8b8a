/*-------------------------------------------------------------------------
 *
 * rebuild_run.h
 *	  Typed access to kappa.rebuild_run: how rebuilds are doing
 *
 * Functions need a transaction; callers check permissions.
 *
 * IDENTIFICATION
 *	  src/rebuild_run.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_REBUILD_RUN_H
#define KAPPA_REBUILD_RUN_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"

/* Phases, as people see them. */
#define KAPPA_PHASE_REPLAYING "replaying"
#define KAPPA_PHASE_INDEXES "building indexes"
#define KAPPA_PHASE_CATCHING_UP "catching up"
#define KAPPA_PHASE_SNAPSHOTS "waiting for old snapshots"
#define KAPPA_PHASE_MANUAL "waiting for switch_rebuild"
#define KAPPA_PHASE_SWITCHING "switching"
#define KAPPA_PHASE_DONE "done"
#define KAPPA_PHASE_CANCELLED "cancelled"
#define KAPPA_PHASE_FAILED "failed"

/* What the caller of kappa.rebuild() asked for, besides the two below. */
#define KAPPA_SWITCH_AUTO "auto"
#define KAPPA_SWITCH_MANUAL "manual" /* wait for kappa.switch_rebuild() */

/* How the new rows get into the view's table. */
#define KAPPA_SWITCH_STORAGE "storage" /* its files are exchanged */
#define KAPPA_SWITCH_ROWS "rows"       /* the difference, as DML */

typedef struct KappaRebuildRun
{
	int32 version;
	char *asked;       /* one of the four KAPPA_SWITCH_... */
	char *switch_kind; /* KAPPA_SWITCH_STORAGE or KAPPA_SWITCH_ROWS */
	char *phase;
	char *error;       /* NULL unless failed */
	int keep_previous; /* kappa.keep_previous when it began */
	bool paused;       /* by kappa.pause_rebuild() */
	bool finished;     /* done, cancelled or failed */
	bool uncommitted;  /* begun in this transaction */
} KappaRebuildRun;

/* The present or else the last rebuild of a view; NULL if there was none.  palloc'd. */
extern KappaRebuildRun *kappa_rebuild_run_get(Oid view);

/*
 * Record the beginning of a rebuild, under the present kappa.keep_previous, and
 * forget the one before.
 */
extern void kappa_rebuild_run_insert(Oid view, int32 version, const char *asked,
									 const char *switch_kind, int64 messages_total);

/*
 * Set phase, messages replayed, and the process that is waited for (0: none)
 * of a run that has not finished.
 */
extern void kappa_rebuild_run_report(Oid view, int32 version, const char *phase,
									 int64 messages, int waiting_for);

/*
 * The views whose rebuild has replayed the log, lacks nothing, and waits for
 * nothing but the messages since: its version may be applied where the live one
 * is.  Of Oid.
 */
extern List *kappa_rebuild_run_list_ready(void);

/* Several processes replay: count what one of them has read. */
extern void kappa_rebuild_run_add_messages(Oid view, int32 version, int64 messages);

/*
 * Change what was asked for, which people do, or how to switch, which whoever
 * applies does: each leaves the other alone.  False if the run has finished
 * meanwhile.
 */
extern bool kappa_rebuild_run_set_asked(Oid view, int32 version, const char *asked);
extern bool kappa_rebuild_run_set_switch(Oid view, int32 version, const char *switch_kind);

/* Hold a run, or let it go on.  False if it has finished, or does so already. */
extern bool kappa_rebuild_run_set_paused(Oid view, int32 version, bool paused);

/* End a run: phase done, cancelled or failed.  error may be NULL. */
extern void kappa_rebuild_run_finish(Oid view, int32 version, const char *phase,
									 const char *error);

#endif /* KAPPA_REBUILD_RUN_H */
