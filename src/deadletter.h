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

/* How many letters of a version wait. */
extern int64 kappa_deadletter_count(Oid view, int32 version);

#endif /* KAPPA_DEADLETTER_H */
