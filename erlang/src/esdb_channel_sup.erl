%%% @private
%%% @doc The relays, one per channel; see {@link esdb_gater_relay}.
-module(esdb_channel_sup).

-behaviour(supervisor).

-export([start_link/1, start_channel/2]).
-export([init/1]).

-spec start_link(#{atom() => esdb_gater_config:channel()}) -> supervisor:startlink_ret().
start_link(Channels) ->
    supervisor:start_link({local, ?MODULE}, ?MODULE, Channels).

%% @doc Starts the relay of one more channel. Also `ok' when it runs.
-spec start_channel(Channel :: atom(), Replays :: boolean()) -> ok | {error, term()}.
start_channel(Channel, Replays) ->
    try supervisor:start_child(?MODULE, relay(Channel, Replays)) of
        {ok, _} -> ok;
        {error, {already_started, _}} -> ok;
        {error, Reason} -> {error, Reason}
    catch
        exit:_ -> {error, no_gateway}             % the application is not running
    end.

-spec init(#{atom() => esdb_gater_config:channel()}) ->
          {ok, {supervisor:sup_flags(), [supervisor:child_spec()]}}.
init(Channels) ->
    Relays = [relay(Channel, Replays)
              || {Channel, #{replay_last := Replays}} <- lists:sort(maps:to_list(Channels))],
    {ok, {#{strategy => one_for_one, intensity => 10, period => 10}, Relays}}.

relay(Channel, Replays) ->
    #{id => Channel, start => {esdb_gater_relay, start_link, [Channel, Replays]}}.
