/*-------------------------------------------------------------------------
 *
 * deliver.h
 *	  Apply the batch in hand to the views of a source
 *
 * IDENTIFICATION
 *	  src/deliver.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_DELIVER_H
#define KAPPA_DELIVER_H

#include "source.h"

/*
 * Apply the messages in hand, and the position, in one transaction for all
 * views; views that fail leave the worker.  The messages are given back.
 */
extern void kappa_deliver(KappaSource *source);

/* The views' columns have changed: forget the decoders. */
extern void kappa_deliver_forget_tables(KappaSource *source);

/* What kappa.last_message keeps of a message: a checksum of key and value. */
extern int64 kappa_deliver_checksum(const KappaMessage *message);

#endif /* KAPPA_DELIVER_H */
