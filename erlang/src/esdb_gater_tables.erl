%%% @private
%%% @doc Owns the tables of the application and does nothing else, so that a crash of the
%%% processes that work on them loses neither a registration nor a subscription.
%%% @end
-module(esdb_gater_tables).

-behaviour(gen_server).

-export([start_link/0]).
-export([init/1, handle_call/3, handle_cast/2]).

-spec start_link() -> {ok, pid()} | {error, term()}.
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

-spec init([]) -> {ok, undefined}.
init([]) ->
    Tables = esdb_gater_workers:tables() ++ esdb_gater_facts:tables()
        ++ esdb_gater_wanted:tables() ++ esdb_gater_relay:tables(),
    lists:foreach(fun({Name, Options}) -> Name = ets:new(Name, Options) end, Tables),
    {ok, undefined}.

-spec handle_call(term(), gen_server:from(), State) -> {reply, {error, unknown_request}, State}.
handle_call(_Request, _From, State) ->
    {reply, {error, unknown_request}, State}.

-spec handle_cast(term(), State) -> {noreply, State}.
handle_cast(_Message, State) ->
    {noreply, State}.
