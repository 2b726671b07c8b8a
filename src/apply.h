/*-------------------------------------------------------------------------
 *
 * apply.h
 *	  Apply batches of messages to one version of a view
 *
 * An applier is what a worker holds for each view version that it serves: the
 * maintenance statements, prepared, and the position.  A batch is applied in
 * one transaction that the worker begins and commits; it calls, for each
 * applier of the batch's topic in the order of view OIDs,
 *
 *		kappa_apply_batch(), kappa_apply_store_position()
 *
 * and after the commit kappa_apply_committed().  After an abort nothing needs
 * to be called: the applier's position is still the stored one.
 *
 * IDENTIFICATION
 *	  src/apply.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_APPLY_H
#define KAPPA_APPLY_H

#include "batch.h"
#include "catalog.h"

typedef struct KappaApplier KappaApplier;

struct KappaApplier
{
	/* Fixed when opened. */
	MemoryContext context; /* holds the applier; delete with kappa_apply_close */
	Oid view;
	int32 version;
	char *name; /* qualified name of the view, for messages */
	Oid owner;
	Oid relid; /* foreign table */
	Oid serverid;
	Oid target;
	char *topic;
	bool changelog;
	bool keys_stay;         /* a changelog by offset: a key must stay in its partition */
	bool live;              /* false: a rebuild's shadow, or a previous version */
	TimestampTz kept_until; /* of a previous version; 0 of others */
	int message_rate;       /* most messages in a second; 0: no limit */
	Bitmapset *columns;     /* attribute numbers of relid that the statements read */
	bool outdated;          /* set where kappa_apply_batch throws because of it: open it again */

	/* Position; arrays of npartitions, owned by the applier. */
	int npartitions;
	int64 *start_offset; /* -1: the beginning of the log, not known yet */
	int64 *next_offset;  /* -1: likewise */

	struct KappaApplierPrivate *own; /* apply.c's */
};

/*
 * Open an applier in a memory context of its own below CurrentMemoryContext.
 * Needs a transaction.  Returns NULL if the version does not exist (any more).
 * Throws ERRCODE_KAPPA_STOP if the definition was dropped, or the foreign table,
 * an SQL view or a function does not mean any more what it meant; other errors
 * are to be retried.
 */
extern KappaApplier *kappa_apply_open(Oid view, int32 version);
extern void kappa_apply_close(KappaApplier *applier);

/*
 * False when an invalidation has touched the view, its definition, foreign
 * table, lookups or functions since it was opened: close it and open it again.  Call
 * AcceptInvalidationMessages() first; needs no transaction.
 */
extern bool kappa_apply_is_valid(KappaApplier *applier);

/*
 * Tell an applier how the log stands, before the first batch and whenever it
 * is asked anew: first and end offsets of partitions 0 .. n-1.  Resolves a
 * symbolic start, and gives partitions that are new their
 * beginning.  Throws ERRCODE_KAPPA_STOP, with numbers and a hint, when the
 * stored position lies before the first or beyond the end offset, when a
 * partition has vanished, or when a changelog has gained partitions.
 */
extern void kappa_apply_set_log(KappaApplier *applier, int n,
								const int64 *begin, const int64 *end);

/*
 * Run a step of the maintenance of a view as its owner, under the version's
 * settings, with its tables locked, the guard told, and SPI connected.  Needs a
 * transaction, leaves no snapshot behind.  Returns what the step does.
 */
typedef uint64 (*KappaApplyStep)(KappaApplier *applier, void *arg);

extern uint64 kappa_apply_run(KappaApplier *applier, KappaApplyStep step, void *arg);

/* The version that is applied to, as it was when the applier was opened. */
extern const KappaVersion *kappa_apply_get_version(const KappaApplier *applier);

/*
 * Run the merge over some of a batch, as the view's owner under the version's
 * settings.  Needs a transaction, leaves no snapshot behind.  Returns the
 * number of rows of the delta that were merged.
 */
extern uint64 kappa_apply_batch(KappaApplier *applier, KappaBatchTable *bt,
								const KappaBatchPart *part);

/*
 * Run the delta alone, likewise, and throw its rows away: what is thrown is the
 * fault of the messages, or of what the query needs besides them.  A key that
 * is too long for the index of the view's key is such an error, too.
 */
extern void kappa_apply_probe(KappaApplier *applier, KappaBatchTable *bt,
							  const KappaBatchPart *part);

/*
 * Store a new position (an array of applier->npartitions) in the current
 * transaction.  Nothing is written when it equals the present one.
 */
extern void kappa_apply_store_position(KappaApplier *applier, const int64 *new_next);

/* The transaction has committed. */
extern void kappa_apply_committed(KappaApplier *applier);

/* The applier whose statement is running in this process, for the error's address; NULL between. */
extern KappaApplier *kappa_apply_current;

#endif /* KAPPA_APPLY_H */
