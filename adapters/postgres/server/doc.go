// Package server manages one PostgreSQL server on this machine: a data directory, the programs that run it, a port, and an
// unprivileged user. This process is the parent of the postmaster, so it hears of its end at once.
//
//	instance, err := server.Open(config)                     // takes the directory's lock; starts nothing
//	err = instance.Init(ctx, server.InitOptions{})           // or a base backup
//	err = instance.FollowUpstream(ctx, follow)               // whom to stream from
//	err = instance.Start(ctx, server.StartOptions{Role: server.RoleStandby})
//	exit, err := instance.Wait(ctx)                          // returns when the postmaster is gone, whoever ended it
//	err = instance.WaitStopped(ctx)                          // no process of the server is left
//
// A failover, from this package's point of view:
//
//	position, err := standby.RevokeUpstream(ctx)             // on each standby: cut off, durable, this is what it has
//	promoted, err := candidate.Promote(ctx, options)         // on one: everything set before it becomes writable
//	err = other.FollowUpstream(ctx, follow)                  // on the others, while it promotes
//
// Invariants:
//
//  1. The server dies with this process. The thread that forked it lives as long as the server, and the kernel sends the
//     postmaster an immediate shutdown when that thread ends, however this process dies. What survives even so is found by
//     its working directory at the next start, and ended before anything else happens.
//  2. "Stopped" means that no process of the server is left, children included. After a postmaster's death its orphans are
//     killed at once: its shared memory is dead, and a busy one could go on for long.
//  3. No server starts by itself: restart_after_crash is off.
//  4. A file that is written is whole, durable and the server's user's: temporary file, fsync, rename, fsync of the folder.
//  5. After RevokeUpstream no WAL receiver is alive, and none can authenticate until FollowUpstream. See there.
//  6. Regent's settings stand in regent.conf, included last from postgresql.conf; what ALTER SYSTEM says about them is removed.
//  7. Passwords are in the server as SCRAM verifiers made here, and in the passfile. No log line, error or argument list has one.
//
// Not obvious:
//
//   - The superuser needs no password on the Unix socket, so the socket's folder is 0700. A path that is too long for a
//     socket moves it to the system's temporary folder; ask [Instance.SocketDir].
//   - RunDir (default: the data directory with .run) holds lock, passfile and socket. It must not lie in the data directory, which
//     base backups and pg_rewind copy.
//   - Placeholder history files make a promotion take a given timeline id (see [Instance.Promote]). Those that an aborted promotion
//     has left are removed before a start, because a standby would take them for its target and refuse to come up; those below
//     a real timeline stay for good, because standbys that follow across the gap ask for them.
//   - A command that the server runs (archive_command, restore_command) is no process of the server in this sense: one that outlives it is
//     left to end by itself.
//   - Everything here needs Linux: /proc, process handles, parent-death signals. On other systems it compiles, and starts nothing.
package server
