/*-------------------------------------------------------------------------
 *
 * key_length.h
 *	  Can the rows of a delta be found by the index of a view's key?
 *
 * IDENTIFICATION
 *	  src/key_length.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_KEY_LENGTH_H
#define KAPPA_KEY_LENGTH_H

#include "nodes/pg_list.h"
#include "tcop/dest.h"

/*
 * Makes a receiver for the rows of a delta, which throws them away, and 54000,
 * as the index would, for one whose key is too long for the index of the key
 * in the table that the delta is merged into.  key: names of the key's columns
 * (C strings), which are those of the delta's, too; NIL if rows have no key.
 * The caller holds a lock on the table.
 */
extern DestReceiver *kappa_key_length_create_receiver(Oid target, List *key);

#endif /* KAPPA_KEY_LENGTH_H */
