/*-------------------------------------------------------------------------
 *
 * deadletter.h
 *	  Messages that a version has passed over because they cannot be applied
 *
 * IDENTIFICATION
 *	  src/deadletter.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_DEADLETTER_H
#define KAPPA_DEADLETTER_H

#include "apply.h"

/*
 * Keep a message, with its headers, and the error that it has caused.  Needs
 * the transaction that moves the version past it.
 */
extern void kappa_deadletter_insert(const KappaApplier *applier, const KappaMessage *message,
									const ErrorData *error);

/* A letter that waits. */
typedef struct KappaDeadLetter
{
	KappaMessage message;
	bool complete; /* if not, key and value are only their beginnings, and headers are missing */
} KappaDeadLetter;

/*
 * Some of the letters of a version, in the order of the log, from behind a
 * place on (partition -1: from the first on); 0 if there are none.  Not more at
 * once than fit into memory well.  All of it is palloc'd.
 */
extern int kappa_deadletter_load(Oid view, int32 version, int32 partition, int64 offset,
								 KappaDeadLetter **letters);

/* A letter has been applied; or it has failed again. */
extern void kappa_deadletter_delete(Oid view, int32 version, const KappaMessage *message);
extern void kappa_deadletter_update(Oid view, int32 version, const KappaMessage *message,
									const ErrorData *error);

/* How many letters of a version wait. */
extern int64 kappa_deadletter_count(Oid view, int32 version);

#endif /* KAPPA_DEADLETTER_H */
