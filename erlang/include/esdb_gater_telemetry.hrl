%%% Names of the telemetry events. Measurements and metadata of each: docs/SHIM.md
%%% and esdb_gater_telemetry. `duration' is in microseconds, `system_time' in milliseconds.
-ifndef(ESDB_GATER_TELEMETRY_HRL).
-define(ESDB_GATER_TELEMETRY_HRL, true).

-define(GATER_WORKER_REGISTERED, [esdb_gater, worker, registered]).
-define(GATER_WORKER_UNREGISTERED, [esdb_gater, worker, unregistered]).
-define(GATER_WORKER_LOOKUP, [esdb_gater, worker, lookup]).

-define(GATER_REQUEST_START, [esdb_gater, request, start]).
-define(GATER_REQUEST_STOP, [esdb_gater, request, stop]).
-define(GATER_REQUEST_ERROR, [esdb_gater, request, error]).

-define(GATER_RETRY_ATTEMPT, [esdb_gater, retry, attempt]).
-define(GATER_RETRY_EXHAUSTED, [esdb_gater, retry, exhausted]).

-define(GATER_CLUSTER_NODE_UP, [esdb_gater, cluster, node, up]).
-define(GATER_CLUSTER_NODE_DOWN, [esdb_gater, cluster, node, down]).

-define(GATER_CHANNEL_BROADCAST, [esdb_gater, channel, broadcast]).
%% Not in the original: messages a bounded queue of the gateway had to drop.
-define(GATER_CHANNEL_DROPPED, [esdb_gater, channel, dropped]).

%% Not in the original: something at the gateway needs attention, or does no more.
-define(GATER_ALARM_RAISED, [esdb_gater, alarm, raised]).
-define(GATER_ALARM_CLEARED, [esdb_gater, alarm, cleared]).

-endif.
