%%% @private
%%% @doc The relays, one per channel; see {@link esdb_gater_relay}.
%%%
%%% A relay has no registered name, since a channel may have the name of any process of this node.
%%% Relays are found by the entries that they write into a table.
-module(esdb_channel_sup).

-behaviour(supervisor).

-export([start_link/0, start_channel/1, relay/1, child/1]).
-export([init/1]).

%% The number of looks for a relay that is being restarted and has not written its entry yet.
-define(LOOKS, 50).
-define(LOOK_MS, 10).

-spec start_link() -> supervisor:startlink_ret().
start_link() ->
    supervisor:start_link({local, ?MODULE}, ?MODULE, []).

%% @doc Returns the relay of a channel of this node, if it runs.
-spec relay(Channel :: atom()) -> {ok, pid()} | none.
relay(Channel) ->
    esdb_gater_relay:find(Channel).

%% @doc Starts the relay of a channel unless it runs, and returns it.
-spec start_channel(Channel :: atom()) -> {ok, pid()} | {error, term()}.
start_channel(Channel) ->
    try supervisor:start_child(?MODULE, child(Channel)) of
        {ok, Relay} -> {ok, Relay};
        {error, {already_started, _}} -> await(Channel, ?LOOKS);
        {error, {{name_in_use, _} = Reason, _Child}} -> {error, Reason};
        {error, Reason} -> {error, Reason}
    catch
        exit:_ -> {error, no_gateway}             % the application is not running
    end.

await(Channel, Looks) ->
    case relay(Channel) of
        {ok, _} = Ok -> Ok;
        none when Looks =:= 0 -> {error, no_gateway};
        none -> timer:sleep(?LOOK_MS), await(Channel, Looks - 1)
    end.

%% @doc Returns the child specification of the relay of a channel.
-spec child(Channel :: atom()) -> supervisor:child_spec().
child(Channel) ->
    #{id => Channel, start => {esdb_gater_relay, start_link, [Channel]}}.

%% The children include relays that were started later, which are found by their subscriptions,
%% since they would not be started again after a crash of this process.
-spec init([]) -> {ok, {supervisor:sup_flags(), [supervisor:child_spec()]}}.
init([]) ->
    Channels = esdb_gater_config:channels(esdb_gater_config:current()),
    Names = lists:usort(maps:keys(Channels) ++ esdb_gater_relay:channels()),
    ok = esdb_gater_names:await_free(Names),
    %% Ten restarts per second allow one relay after another to be lost; a crash loop ends the
    %% supervisor.
    {ok, {#{strategy => one_for_one, intensity => 100, period => 10}, [child(N) || N <- Names]}}.
