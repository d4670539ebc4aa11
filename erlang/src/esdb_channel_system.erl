%%% @doc The channel of system notifications.
-module(esdb_channel_system).

-export([priority/0, max_rate/0, requires_signature/0]).

%% @doc Returns the channel's priority, without configuration.
-spec priority() -> critical | high | normal | low.
priority() -> maps:get(priority, esdb_channel:policy(?MODULE)).

%% @doc Returns the most messages per second and topic, without configuration.
-spec max_rate() -> pos_integer() | infinity.
max_rate() -> maps:get(max_rate, esdb_channel:policy(?MODULE)).

%% @doc Returns whether the channel takes signed messages only, without configuration.
-spec requires_signature() -> boolean().
requires_signature() -> maps:get(requires_signature, esdb_channel:policy(?MODULE)).
