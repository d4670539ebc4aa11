%% @doc Nodes of other OTP releases, which run in the small systems that `scripts/otp' makes.
%%
%% A release may refuse modules that another has compiled. What such a node needs is compiled by the
%% node itself, from the source that the module carries in its debug information. The same function
%% then has another identity there, so functions are translated before they are sent: see
%% `portable/2'. The application itself is compiled from its sources: see `shim/1'.
-module(gater_release).

-export([root/1, command/1, load/3, portable/2, shim/1]).
-export_type([lambdas/0]).

%% For every module that a node compiled itself: its checksum and its local functions, by name and
%% number of arguments (free variables included).
-type lambdas() :: #{module() => {binary(), #{{atom(), arity()} => lambda()}}}.
-type lambda() :: {Index :: non_neg_integer(), Free :: non_neg_integer(), OldUniq :: integer()}.

%% Copies of the application for builds that are no longer there.
-define(KEEP_SECONDS, 86400).

%% @doc The root of a system with a release, or why there is none.
-spec root(pos_integer()) -> {ok, file:filename()} | {skip, string()}.
root(Release) ->
    case os:getenv(lists:concat(["GATER_OTP", Release, "_ROOT"])) of
        Root when is_list(Root), Root =/= "" ->
            {ok, Root};
        _ ->
            {skip, lists:concat(["there is no OTP ", Release, " here: scripts/otp ", Release,
                                 " says why"])}
    end.

%% @doc The program, with arguments, that runs `erl' of a release.
-spec command(pos_integer()) -> {file:filename(), [string()]}.
command(Release) ->
    {ok, Root} = root(Release),
    {os:find_executable("chroot"), [Root, "/usr/bin/erl"]}.

%% @doc Loads modules of this node into another one, and returns what `portable/2' needs.
-spec load(pid(), pos_integer(), [module()]) -> lambdas().
load(Peer, Release, Modules) ->
    lists:foldl(fun(Module, Lambdas) ->
        {Module, Code, File} = code:get_object_code(Module),
        There = if
            %% These load what OTP 25 has compiled.
            Release =< 27 -> Code;
            true -> compiled(Peer, Release, Code)
        end,
        {module, Module} = peer:call(Peer, code, load_binary, [Module, File, There]),
        case There of
            Code -> Lambdas;
            _ ->
                Md5 = peer:call(Peer, Module, module_info, [md5]),
                Lambdas#{Module => {Md5, lambdas(Peer, There)}}
        end
    end, #{}, lists:usort(Modules)).

%% Compiled once for all nodes of a release. The way leads through Core Erlang, which has the names
%% of local functions: releases number them differently.
compiled(Peer, Release, Code) ->
    Key = {?MODULE, Release, erlang:md5(Code)},
    case persistent_term:get(Key, none) of
        none ->
            {ok, {Module, [{abstract_code, {raw_abstract_v1, Forms}}]}} =
                beam_lib:chunks(Code, [abstract_code]),
            {ok, Module, Core} = compile:forms(Forms, [to_core, binary]),
            {ok, Module, There} =
                peer:call(Peer, compile, forms, [Core, [from_core, binary]], 60000),
            persistent_term:put(Key, There),
            There;
        There ->
            There
    end.

%% The table of local functions of a compiled module, which only its own release can read.
lambdas(Peer, Code) ->
    Chunks = fun(Names) -> peer:call(Peer, beam_lib, chunks, [Code, Names, [allow_missing_chunks]]) end,
    {ok, {_, [{atoms, Atoms}]}} = Chunks([atoms]),
    case Chunks(["FunT"]) of
        {ok, {_, [{"FunT", <<_Count:32, Table/binary>>}]}} ->
            maps:from_list(
                [{{proplists:get_value(Name, Atoms), Arity}, {Index, Free, OldUniq}}
                 || <<Name:32, Arity:32, _Offset:32, Index:32, Free:32, OldUniq:32>> <= Table]);
        {ok, {_, [{"FunT", missing_chunk}]}} ->
            #{}
    end.

%% @doc A term whose functions are those of a node that has compiled their modules itself, wherever
%% in the term they are.
-spec portable(term(), lambdas()) -> term().
portable(Term, Lambdas) when map_size(Lambdas) =:= 0 -> Term;
portable(Term, Lambdas) -> translate(Term, Lambdas).

translate(Fun, Lambdas) when is_function(Fun) ->
    {module, Module} = erlang:fun_info(Fun, module),
    case {erlang:fun_info(Fun, type), Lambdas} of
        {{type, local}, #{Module := {Md5, Table}}} ->
            {name, Name} = erlang:fun_info(Fun, name),
            {env, Free} = erlang:fun_info(Fun, env),
            {arity, Arity} = erlang:fun_info(Fun, arity),
            N = length(Free),
            #{{Name, Arity + N} := {Index, N, OldUniq}} = Table,
            rebuilt(Module, Arity, Md5, Index, OldUniq, [translate(Value, Lambdas) || Value <- Free]);
        _ ->
            Fun
    end;
translate([Head | Tail], Lambdas) -> [translate(Head, Lambdas) | translate(Tail, Lambdas)];
translate(Tuple, Lambdas) when is_tuple(Tuple) ->
    list_to_tuple(translate(tuple_to_list(Tuple), Lambdas));
translate(Map, Lambdas) when is_map(Map) ->
    maps:from_list(translate(maps:to_list(Map), Lambdas));
translate(Other, _) -> Other.

%% NEW_FUN_EXT of the external term format.
rebuilt(Module, Arity, Md5, Index, OldUniq, Free) ->
    Parts = << <<(part(Term))/binary>> || Term <- [Module, Index, OldUniq, self() | Free] >>,
    Rest = <<Arity:8, Md5:16/binary, Index:32, (length(Free)):32, Parts/binary>>,
    binary_to_term(<<131, 112, (byte_size(Rest) + 4):32, Rest/binary>>).

part(Term) ->
    <<131, Encoded/binary>> = term_to_binary(Term),
    Encoded.

%% @doc The folder of the application `erl_esdb_gater' in the system of a release, as that release
%% compiles it, with the gateway's program and the NIF that were built here.
-spec shim(pos_integer()) -> file:filename().
shim(Release) ->
    {ok, Root} = root(Release),
    Files = files(),
    Copies = filename:join([Root, "var", "cache", "esdb-gater"]),
    Sum = erlang:phash2([{Place, checksum(File)} || {Place, File} <- Files], 1 bsl 32),
    Copy = filename:join(Copies, integer_to_list(Sum, 36)),
    case filelib:is_dir(Copy) of
        true -> ok;
        false -> copy(Root, Copies, Copy, Files)
    end,
    string:prefix(Copy, Root) ++ "/erl_esdb_gater".

%% What the folder of the application has before it is compiled, and where it comes from.
files() ->
    Erlang = filename:join(project(), "erlang"),
    Sources = [{Source, filename:join(Erlang, Source)}
               || Pattern <- ["src/*.erl", "src/*.hrl", "include/*.hrl"],
                  Source <- filelib:wildcard(Pattern, Erlang)],
    Built = [{"ebin/erl_esdb_gater.app",
              filename:join([project(), "_build", "default", "lib", "erl_esdb_gater", "ebin",
                             "erl_esdb_gater.app"])},
             {"priv/esdb-gater", gater_harness:program()},
             {"priv/gater_nif.so", filename:join([Erlang, "priv", "gater_nif.so"])}],
    Sources ++ [{Place, File} || {Place, File} <- Built, filelib:is_regular(File)].

checksum(File) ->
    {ok, Bytes} = file:read_file(File),
    erlang:md5(Bytes).

copy(Root, Copies, Copy, Files) ->
    _ = [file:del_dir_r(Old) || Old <- filelib:wildcard(filename:join(Copies, "*")),
         old(filelib:last_modified(Old))],
    Making = Copy ++ "." ++ os:getpid(),
    [begin
         To = filename:join([Making, "erl_esdb_gater", Place]),
         ok = filelib:ensure_dir(To),
         {ok, _} = file:copy(File, To),
         ok = file:change_mode(To, 8#755)
     end || {Place, File} <- Files],
    Inside = string:prefix(Making, Root) ++ "/erl_esdb_gater",
    Said = os:cmd("chroot " ++ Root ++ " sh -c 'cd " ++ Inside
                  ++ " && erlc +debug_info -I include -o ebin src/*.erl' 2>&1 && echo compiled"),
    case lists:suffix("compiled\n", Said) of
        true -> ok;
        false -> error({not_compiled, Said})
    end,
    %% Another run may have made the same in the meantime.
    case file:rename(Making, Copy) of
        ok -> ok;
        {error, _} -> true = filelib:is_dir(Copy), file:del_dir_r(Making)
    end.

old(0) -> false;
old(Modified) ->
    Age = calendar:datetime_to_gregorian_seconds(calendar:local_time())
        - calendar:datetime_to_gregorian_seconds(Modified),
    Age > ?KEEP_SECONDS.

project() ->
    case os:getenv("GATER_ROOT") of
        Root when is_list(Root), Root =/= "" -> Root;
        _ -> {ok, Dir} = file:get_cwd(), Dir
    end.
