%%% @private
%%% @doc The gateway program `esdb-gater': where it is and how it is told what to do.
%%%
%%% It is looked for under the configuration key `program', in the application's `priv' and on the
%%% path. Configuration, signing secret and cookie go to its standard input, in frames: they are
%%% in no file, no argument and no environment, and in no state that a report could show. Without
%%% `data_dir' it keeps the registry in memory, so nothing has to be removed, whatever end this
%%% node comes to.
%%% @end
-module(esdb_gater_program).

-export([find/1, open/3, tell_cookie/1, stop/1, close/1]).

%% The program reads these kinds of frames before it starts, and the cookie later as well.
-define(COOKIE, $K).
-define(SECRET, $S).
-define(CONFIGURATION, $C).
-define(QUIT, $Q).

%% What would mix with what it is told.
-define(UNSET, ["ESDB_GATER_CONFIG", "ESDB_GATER_COOKIE", "ESDB_GATER_COOKIE_FILE",
                "ESDB_GATER_SECRET"]).
%% A registry in memory is that of no cluster.
-define(UNSET_ALONE, ["ESDB_GATER_DATA_DIR", "ESDB_GATER_CLUSTER", "ESDB_GATER_JOIN"]).

%% @doc Where the program is, or where it was looked for.
-spec find(Config :: map()) -> {ok, file:name_all()} | {error, file:name_all()}.
find(#{program := Program}) ->
    case filelib:is_regular(Program) of
        true -> {ok, Program};
        false -> {error, Program}
    end;
find(_Config) ->
    Own = case code:priv_dir(erl_esdb_gater) of
              {error, bad_name} -> "priv/esdb-gater";
              Priv -> filename:join(Priv, "esdb-gater")
          end,
    case filelib:is_regular(Own) of
        true ->
            {ok, Own};
        false ->
            case os:find_executable("esdb-gater") of
                false -> {error, Own};
                Found -> {ok, Found}
            end
    end.

%% @doc Starts the program and tells it all it needs. Its frames come as `{Port, {data, Frame}}':
%% `R' and the ready line, `E' and why it ends, or one for {@link esdb_gater_pipe}.
-spec open(file:name_all(), piped | {Name :: string(), Address :: string()}, Config :: map()) ->
          {ok, port()} | {error, term()}.
open(Program, Reach, Config) ->
    Options = [{args, ["start", "--hosted" | reach(Reach) ++ storage(Reach, Config)]},
               {env, environment(Reach, Config)}, {packet, 4}, binary, exit_status, use_stdio, hide],
    try open_port({spawn_executable, Program}, Options) of
        Port ->
            ok = tell_cookie(Port),
            ok = tell(Port, [?SECRET, esdb_pubsub_security:get_secret()]),
            ok = tell(Port, [?CONFIGURATION | esdb_gater_config:to_toml(Config)]),
            {ok, Port}
    catch
        error:Reason -> {error, Reason}
    end.

reach(piped) ->
    ["--piped", "--name", atom_to_list(esdb_gater_transport:piped_gateway())];
reach({Name, Address}) ->
    ["--name", Name, "--listen", Address ++ ":0"].

%% The processes of a node without a name are called the same in its next life, so what it had
%% registered means nothing then.
storage(Reach, Config) ->
    case data_dir(Reach, Config) of
        none -> ["--in-memory"];
        {ok, Folder} -> ["--data-dir", Folder]
    end.

data_dir(piped, _Config) -> none;
data_dir(_Reach, #{data_dir := Folder}) -> {ok, Folder};
data_dir(_Reach, _Config) -> none.

environment(Reach, Config) ->
    Level = case os:getenv("ESDB_GATER_LOG") of
                false -> [{"ESDB_GATER_LOG", "warn,openraft=error"}];
                _ -> []
            end,
    Unset = case data_dir(Reach, Config) of
                none -> ?UNSET ++ ?UNSET_ALONE;
                {ok, _} -> ?UNSET
            end,
    Level ++ [{Name, false} || Name <- Unset].

%% @doc Tells a program the cookie of this node.
-spec tell_cookie(port()) -> ok.
tell_cookie(Port) ->
    %% The bytes that nodes prove to each other that they know.
    tell(Port, [?COOKIE | atom_to_list(erlang:get_cookie())]).

%% @doc Tells a program to end once what is queued is written.
-spec stop(port()) -> ok.
stop(Port) ->
    tell(Port, [?QUIT]).

%% @doc Lets go of a program, which ends it as well.
-spec close(port()) -> ok.
close(Port) ->
    try
        true = port_close(Port),
        ok
    catch
        error:badarg -> ok
    end.

%% One that has ended on its own says so by its exit. Nothing of the frame gets into an error.
tell(Port, Frame) ->
    try
        true = port_command(Port, Frame),
        ok
    catch
        error:_ -> ok
    end.
